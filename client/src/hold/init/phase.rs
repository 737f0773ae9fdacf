//! What a hold is doing, and how long it may.

use std::time::{Duration, Instant};

/// How long a hold that must have a daemon, or was started by one, looks for it.
pub const CONTACT_WAIT: Duration = Duration::from_secs(30);

/// How long a connected daemon may take to decide between start and restore. It asks the store, so
/// this is longer than any retry there.
pub const ANSWER_WAIT: Duration = Duration::from_secs(300);

/// How long a daemon that went away during a restore may take to come back.
pub const RESTORE_CONTACT_WAIT: Duration = Duration::from_secs(60);

/// How long the daemon may take to say whether the end of the workload was an evacuation.
pub const NOTE_WAIT: Duration = Duration::from_secs(10);

/// How long processes that were killed may take to be gone.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// How long the workload has after SIGTERM when the front half has gone.
pub const FRONT_GONE_GRACE: Duration = Duration::from_secs(10);

/// What a hold is doing.
#[derive(Debug)]
pub(super) enum Phase {
    /// It asks the daemon: restore or start?
    Asking {
        /// When it stops asking.
        until: Instant,
        /// Whether a daemon was reached.
        reached: bool,
    },
    /// The daemon restores.
    Restoring {
        /// The checkpoint.
        checkpoint: String,
        /// When it is given up, while the daemon is away.
        until: Option<Instant>,
    },
    /// The workload runs.
    Running {
        /// PID of its first process.
        root: i32,
    },
    /// The workload's first process has ended.
    Ending(Ending),
}

/// The last things.
#[derive(Debug)]
pub(super) struct Ending {
    /// PID of the first process.
    pub(super) root: i32,
    /// Its status as wait(2) encodes it.
    pub(super) status: i32,
    /// Until when other processes may be left; `None` once they are gone.
    pub(super) killing_until: Option<Instant>,
    /// Until when the daemon may say what the end was; `None` once that is known or does not matter.
    pub(super) note_until: Option<Instant>,
    /// Somebody asked the hold itself to end: nothing is waited for any more.
    pub(super) hurry: bool,
}

impl Phase {
    /// The moment at which something must be done though nothing happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Asking { until, .. } => Some(*until),
            Self::Restoring { until, .. } => *until,
            Self::Running { .. } => None,
            Self::Ending(ending) => super::earlier(ending.killing_until, ending.note_until),
        }
    }

    /// PID of the workload's first process while it runs.
    pub(super) const fn root(&self) -> Option<i32> {
        match self {
            Self::Running { root } => Some(*root),
            _ => None,
        }
    }
}
