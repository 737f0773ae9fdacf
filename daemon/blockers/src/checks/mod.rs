//! One check for each subject.

mod files;
mod memory;
mod open;
mod pipes;
mod preserve;
mod processes;
mod sockets;
mod terminals;

use crate::{blocker::Findings, inspect::Scene};

/// Looks at the scene and adds what it finds.
type Check = fn(&Scene<'_>, &mut Findings);

/// All checks, in the order in which they run.
pub(crate) const ALL: [Check; 9] = [
    processes::state,
    processes::namespaces,
    open::check,
    pipes::check,
    terminals::check,
    sockets::check,
    memory::check,
    files::check,
    preserve::check,
];
