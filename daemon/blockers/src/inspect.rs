//! The inspection: collects processes and open files once, then lets each check look at them.

use std::{io, path::PathBuf};

use crate::{
    blocker::{Blocker, Findings},
    checks,
    descriptors::{self, Descriptor},
    maps::{self, Mapped},
    process::{self, Process},
};

/// Default of [`Policy::ghost_bytes_max`]: 256 MiB.
const GHOST_BYTES_MAX: u64 = 256 << 20;

/// What happens to established TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tcp {
    /// They are closed at the restore; peers see a reset.
    #[default]
    Close,
    /// They are kept; the restoring machine must have the same address.
    Keep,
}

/// How the workload will be checkpointed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Established TCP connections.
    pub tcp: Tcp,
    /// Whether the workload runs under a hold: in namespaces of its own, below the hold's process,
    /// with standard streams that the hold carries.
    pub held: bool,
    /// Paths that travel with a checkpoint, as the workload sees them.
    pub preserve: Vec<PathBuf>,
    /// Further trees that are the same wherever the workload is restored, besides the usual ones of a
    /// system (`/usr`, `/etc`, …). For a container: `/`, its image.
    pub everywhere: Vec<PathBuf>,
    /// Inodes of pipes whose outer ends are made again by the hold. The standard streams of a held
    /// root process need not be named.
    pub carried_pipes: Vec<u64>,
    /// Largest unlinked file that goes into the images, in bytes.
    pub ghost_bytes_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tcp: Tcp::default(),
            held: false,
            preserve: Vec::new(),
            everywhere: Vec::new(),
            carried_pipes: Vec::new(),
            ghost_bytes_max: GHOST_BYTES_MAX,
        }
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The root process is not there, or not for this user to see.
    #[error("look at process {pid}")]
    Root {
        /// Its PID.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What the checks look at.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    /// The root process first.
    pub(crate) tree: &'a [Process],
    pub(crate) descriptors: &'a [Descriptor<'a>],
    /// What each process has mapped.
    pub(crate) mapped: &'a [(&'a Process, Vec<Mapped>)],
    pub(crate) policy: &'a Policy,
}

impl Scene<'_> {
    pub(crate) fn root(&self) -> &Process {
        &self.tree[0]
    }

    /// The processes that have memory and files.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Process> {
        self.tree
            .iter()
            .filter(|process| !process.status.is_zombie())
    }

    pub(crate) fn has_process(&self, pid: u32) -> bool {
        self.tree.iter().any(|process| process.pid == pid)
    }
}

/// What stands in the way of a checkpoint of the process `root_pid` with everything below it, fatal
/// findings first. An empty list is good news.
///
/// It reads a few files for each process, thread and descriptor: some milliseconds for an ordinary
/// workload. It may wait for a process's own memory lock, so call it where waiting is allowed.
///
/// # Errors
/// [`InspectError::Root`] if the root process does not exist or may not be looked at.
pub fn inspect(root_pid: u32, policy: &Policy) -> Result<Vec<Blocker>, InspectError> {
    let root = Process::open(root_pid).map_err(|source| InspectError::Root {
        pid: root_pid,
        source,
    })?;
    let mut findings = Findings::default();
    let tree = process::tree(root, &mut findings);
    let descriptors = descriptors::collect(&tree, &mut findings);
    let mapped = maps::collect(&tree, &mut findings);
    let scene = Scene {
        tree: &tree,
        descriptors: &descriptors,
        mapped: &mapped,
        policy,
    };
    for check in checks::ALL {
        check(&scene, &mut findings);
    }
    Ok(findings.done(root_pid))
}
