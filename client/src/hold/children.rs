//! Reaping, and ending what is left.

use std::{fs, io};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    io::Errno,
    process::{WaitOptions, getpid, set_child_subreaper, wait},
};

/// The children of the calling thread (proc(5), needs `CONFIG_PROC_CHILDREN`).
const CHILDREN_FILE: &str = "/proc/thread-self/children";

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedChild {
    /// Its PID.
    pub pid: i32,
    /// Its status as wait(2) encodes it.
    pub status: i32,
}

/// Whether this process is PID 1 of its PID namespace.
#[must_use]
pub fn is_init() -> bool {
    getpid().is_init()
}

/// Makes this process the reaper of its descendants if it is not PID 1.
///
/// # Errors
/// What the kernel says.
pub fn become_reaper() -> io::Result<()> {
    if !is_init() {
        set_child_subreaper(Some(getpid()))?;
    }
    Ok(())
}

/// Reaps every child that has ended. The flag tells whether there are children left.
///
/// # Errors
/// What wait(2) reports.
pub fn reap() -> io::Result<(Vec<EndedChild>, bool)> {
    let mut ended = Vec::new();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get();
                ended.push(EndedChild {
                    pid,
                    status: status.as_raw(),
                });
            }
            Ok(None) => return Ok((ended, true)),
            Err(Errno::CHILD) => return Ok((ended, false)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Kills every process of this hold that is left, as the end of a PID namespace's first process
/// does. Descendants of children come to this process when those end: repeat until [`reap`] says
/// that none is left.
pub fn kill_all() {
    if is_init() {
        // Everything in the namespace but this process. That there is nothing, or something of
        // another user's, is not ours to report.
        kill(Pid::from_raw(-1), Signal::SIGKILL).ok();
        return;
    }
    let children = fs::read_to_string(CHILDREN_FILE).unwrap_or_default();
    for child in children
        .split_whitespace()
        .filter_map(|pid| pid.parse::<i32>().ok())
    {
        // It cannot have been reaped meanwhile: this thread is the one that does.
        kill(Pid::from_raw(child), Signal::SIGKILL).ok();
    }
}
