//! The front half of a hold: the process that the user started.
//!
//! It asks the daemon for namespaces with the init half in them, then relays signals, window sizes
//! and (from a terminal) input, prints what the init half has to say, and returns its exit code.
//! Without a daemon, and where the daemon cannot make namespaces, it is the init half as well.
//!
//! The terminal's modes are put back whatever happens, short of SIGKILL.

mod ask;
mod relay;

use std::{io, path::Path, time::Duration};

use lifeboat_proto::{HOLD_FRAME_BYTES_MAX, hold::HoldSpec};
use lifeboat_sys::peer;
use prost::Message as _;

use self::{
    ask::{Spawned, input, spawn},
    relay::Front,
};
use super::{
    EXIT_NOT_STARTED, children,
    init::{self, CONTACT_WAIT, print_note},
    link,
    signals::Signals,
};
use crate::error::explain_connect;

/// How long the daemon may take to make namespaces.
pub const SPAWN_WAIT: Duration = Duration::from_secs(30);

/// Environment variable that makes both halves one process (`1`), for containers whose first
/// process is another one.
pub const IN_PLACE_VARIABLE: &str = "LIFEBOAT_IN_PLACE";

/// Why a hold could not be run.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The kernel refused what every hold needs.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The specification is larger than the protocol allows.
    #[error(
        "command and environment take {bytes} bytes, more than the {HOLD_FRAME_BYTES_MAX} that a \
         hold can pass on; start with a smaller environment (`env -i …`)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Runs a workload and returns the exit code of the hold.
///
/// # Errors
/// When the kernel refuses what every hold needs. Everything else is told on standard error and by
/// the exit code.
pub fn run(spec: HoldSpec) -> Result<u8, FrontError> {
    // Room for what goes around the specification.
    let bytes = spec.encoded_len() + 4096;
    if bytes > HOLD_FRAME_BYTES_MAX {
        return Err(FrontError::TooLarge { bytes });
    }
    let patience = if spec.require_daemon {
        CONTACT_WAIT
    } else {
        Duration::ZERO
    };
    if children::is_init() || std::env::var_os(IN_PLACE_VARIABLE).is_some_and(|v| v == "1") {
        return in_place(spec, patience);
    }
    let mut daemon = match link::open(Path::new(&spec.socket)) {
        Ok(daemon) => daemon,
        // The init half says so, and goes on looking.
        Err(_) if !spec.require_daemon => return in_place(spec, Duration::ZERO),
        Err(error) => {
            let why = explain_connect(Path::new(&spec.socket), &error);
            let name = &spec.workload;
            print_note(
                &format!("{name}: not started, since --require-daemon is given: {why}"),
                false,
            );
            return Ok(EXIT_NOT_STARTED);
        }
    };
    let peer = peer::identify(daemon.socket());
    if peer.is_ok_and(|peer| peer.pid.is_none()) {
        // The daemon is outside of this container.
        return in_place(spec, patience);
    }
    let signals = Signals::take_over().map_err(system("read signals"))?;
    let (input, stdin) = input()?;
    match spawn(&spec, &mut daemon, stdin, &signals)? {
        Spawned::Yes(init) => {
            drop(daemon);
            Front::new(spec, init, signals, input)?.run()
        }
        Spawned::InPlace(patience) => in_place(spec, patience),
        Spawned::End(code) => Ok(code),
    }
}

fn in_place(spec: HoldSpec, patience: Duration) -> Result<u8, FrontError> {
    init::run_in_place(spec, patience).map_err(system("run the hold"))
}

fn system(what: &'static str) -> impl Fn(io::Error) -> FrontError {
    move |source| FrontError::System { what, source }
}
