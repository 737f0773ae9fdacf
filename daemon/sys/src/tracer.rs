//! Stopping one thread of another process, having it do system calls, and leaving it as if nothing
//! had happened (ptrace(2), `PTRACE_SEIZE`).
//!
//! Guarantees:
//! - A system call that the thread sleeps in goes on as before. Those that the kernel answers with
//!   EINTR in such a case, although no signal handler ran, are repeated (their timeout starts
//!   anew).
//! - Signals that arrive meanwhile are delivered afterwards. Signal dispositions are never changed,
//!   since nothing here works by signals.
//! - A restartable sequence is aborted, as by any interruption.
//! - Every wait has a deadline, with one exception: a thread whose registers were changed is never
//!   left that way, however long it takes to stop it again. [`Stopped`] waits for that when it is
//!   dropped; [`crate::remote`] does it on a thread of its own.
//!
//! ptrace is bound to the calling thread: [`Tracer`] and [`Stopped`] cannot be sent. If that thread
//! ends, the kernel lets the tracee go. The process must nowhere wait for "any child"
//! (`waitpid(-1)`), which would take away these stops.
//!
//! If this process is killed within the few microseconds of an injected system call, the tracee
//! goes on with the registers of that call, and most likely crashes.

mod alarm;
mod ptrace;
mod rseq;
mod stopped;

pub use self::stopped::Stopped;

use std::{fs, io, time::Instant};

use rustix::process::Pid;

use self::{
    alarm::Alarm,
    ptrace::{Resume, Stop},
};
use crate::pidfd::Pidfd;

/// Stops the thread must go through before it is where it is wanted; more than that is not a
/// thread that behaves.
const STOPS_MAX: u32 = 1000;

/// Why a thread could not be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The thread has ended.
    #[error("thread {tid} is gone")]
    Gone {
        /// Number of the thread.
        tid: i32,
    },
    /// Somebody else traces the thread (a debugger, strace, CRIU).
    #[error("thread {tid} is already traced by process {by}")]
    AlreadyTraced {
        /// Number of the thread.
        tid: i32,
        /// Number of the tracer.
        by: i32,
    },
    /// The kernel refused.
    #[error("{action} thread {tid}")]
    Refused {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Number of the thread.
        tid: i32,
        /// The kernel's answer; EPERM: no ptrace access.
        source: io::Error,
    },
    /// The thread did not stop in time: it is in an uninterruptible sleep, or frozen.
    #[error("thread {tid} did not stop in time")]
    Deadline {
        /// Number of the thread.
        tid: i32,
    },
    /// The thread is one that cannot be made to do system calls.
    #[error("thread {tid} {what}")]
    Unsuitable {
        /// Number of the thread.
        tid: i32,
        /// Why not, as the rest of a sentence.
        what: &'static str,
    },
}

impl TraceError {
    /// Another thread of the same process may do instead.
    #[must_use]
    pub const fn concerns_this_thread_only(&self) -> bool {
        matches!(
            self,
            Self::Gone { .. } | Self::Deadline { .. } | Self::Unsuitable { .. }
        )
    }
}

/// A thread that is traced by the calling thread, and runs.
#[derive(Debug)]
pub struct Tracer<'process> {
    process: &'process Pidfd,
    tid: i32,
    /// Also binds this to its thread.
    alarm: Alarm,
}

impl<'process> Tracer<'process> {
    /// Begins to trace thread `tid` of `process`, without stopping it. Its seccomp filters are
    /// suspended while traced, if this process may do that (`CAP_SYS_ADMIN`).
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn seize(process: &'process Pidfd, tid: Pid) -> Result<Self, TraceError> {
        let number = tid.as_raw_nonzero().get();
        let alarm =
            Alarm::new().map_err(|source| refused("make an alarm to trace", number, source))?;
        let options = libc::PTRACE_O_TRACESYSGOOD;
        let seized = match ptrace::seize(number, options | libc::PTRACE_O_SUSPEND_SECCOMP) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                ptrace::seize(number, options)
            }
            other => other,
        };
        if let Err(source) = seized {
            return Err(not_seized(process, number, source));
        }
        let tracer = Self {
            process,
            tid: number,
            alarm,
        };
        // The number was that of the right thread if its process still lives and has it.
        let path = format!("/proc/{}/task/{number}", process.pid().as_raw_nonzero());
        if fs::exists(path).unwrap_or(false) && process.is_alive() {
            Ok(tracer)
        } else {
            Err(TraceError::Gone { tid: number })
        }
    }

    /// Stops the thread.
    ///
    /// # Errors
    /// [`TraceError`]. After [`TraceError::Deadline`] the thread stays traced, and will stop, until
    /// the calling thread ends.
    pub fn stop(self, deadline: Instant) -> Result<Stopped<'process>, TraceError> {
        let tid = self.tid;
        ptrace::interrupt(tid).map_err(|source| refused("interrupt", tid, source))?;
        for _ in 0..STOPS_MAX {
            let signal = match self.wait(Some(deadline))? {
                Stop::Event => return Stopped::new(self),
                // It may have been about to get a signal. Any stop uses up the interruption.
                Stop::Signal(signal) => signal,
                Stop::SystemCall | Stop::Other => 0,
            };
            ptrace::interrupt(tid).map_err(|source| refused("interrupt", tid, source))?;
            ptrace::resume(tid, Resume::Run, signal)
                .map_err(|source| refused("resume", tid, source))?;
        }
        Err(TraceError::Unsuitable {
            tid,
            what: "does nothing but get signals",
        })
    }

    /// Waits for the next stop; without a deadline until it comes or the thread ends.
    fn wait(&self, deadline: Option<Instant>) -> Result<Stop, TraceError> {
        let tid = self.tid;
        self.alarm
            .set(deadline)
            .map_err(|source| refused("set a deadline for", tid, source))?;
        loop {
            match ptrace::wait_stop(tid) {
                Ok(Some(stop)) => return Ok(stop),
                Ok(None) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Err(TraceError::Deadline { tid });
                }
                Ok(None) => {}
                Err(source) => return Err(refused("wait for", tid, source)),
            }
        }
    }
}

/// The kernel answers EPERM to more than missing permission.
fn not_seized(process: &Pidfd, tid: i32, source: io::Error) -> TraceError {
    let tracer = status_field(process, tid, "TracerPid:", |text| text.parse().ok());
    let state = status_field(process, tid, "State:", |text| text.chars().next());
    match (tracer, state) {
        (Some(by), _) if by > 0 => TraceError::AlreadyTraced { tid, by },
        (_, None | Some('Z' | 'X')) => TraceError::Gone { tid },
        _ => refused("seize", tid, source),
    }
}

fn refused(action: &'static str, tid: i32, source: io::Error) -> TraceError {
    if source.raw_os_error() == Some(libc::ESRCH) {
        TraceError::Gone { tid }
    } else {
        TraceError::Refused {
            action,
            tid,
            source,
        }
    }
}

/// A field of `/proc/PID/task/TID/status`.
fn status_field<T>(
    process: &Pidfd,
    tid: i32,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let path = format!("/proc/{}/task/{tid}/status", process.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    parse(line.trim())
}
