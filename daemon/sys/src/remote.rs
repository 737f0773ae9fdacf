//! Having another process make something for us, and taking it over.

use std::{
    fs, io,
    os::fd::RawFd,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use linux_raw_sys::general::UFFD_USER_MODE_ONLY;
use rustix::process::Pid;

use crate::{
    pidfd::{Pidfd, PidfdError},
    tracer::{Stopped, TraceError, Tracer},
    uffd::Uffd,
};

/// Most threads of a process that are tried before giving up.
pub const THREADS_TRIED_MAX: usize = 8;

/// Longest time after the deadline until the caller has its answer.
const ANSWER_GRACE: Duration = Duration::from_millis(50);

/// Why nothing could be injected. The process is as it was.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The process has ended or is ending.
    #[error("process {pid} is gone")]
    Gone {
        /// Number of the process.
        pid: i32,
    },
    /// No thread could be stopped in time. What was begun is undone as soon as that is possible.
    #[error("process {pid} could not be stopped in time")]
    Deadline {
        /// Number of the process.
        pid: i32,
    },
    /// No thread could be traced; the source is about the last one tried.
    #[error("trace a thread of process {pid}")]
    Trace {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: TraceError,
    },
    /// The system call failed in the other process.
    #[error("{call} in process {pid}")]
    Call {
        /// Name of the system call.
        call: &'static str,
        /// Number of the process.
        pid: i32,
        /// Its answer; EMFILE: it has no room for descriptors, EPERM or ENOSYS: not allowed there.
        source: io::Error,
    },
    /// The descriptor could not be taken over.
    #[error("take the userfaultfd out of process {pid}")]
    Take {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: PidfdError,
    },
    /// No thread to trace with.
    #[error("start a thread to trace process {pid}")]
    Thread {
        /// Number of the process.
        pid: i32,
        /// The system's answer.
        source: io::Error,
    },
}

impl InjectError {
    /// The process has ended.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Somebody else traces the process; it may be free later.
    #[must_use]
    pub const fn is_traced_by_others(&self) -> bool {
        matches!(
            self,
            Self::Trace {
                source: TraceError::AlreadyTraced { .. },
                ..
            }
        )
    }
}

/// Has `process` create a userfaultfd for its address space (close-on-exec, non-blocking, faults of
/// user mode only), takes it over, and closes it there. One thread of the process stands still for
/// a fraction of a millisecond; whatever it was doing goes on as before (see [`crate::tracer`]).
///
/// The handshake is left to the caller.
///
/// Between creating and closing, another thread of the process can fork; the child then keeps a
/// descriptor of it, unless it executes another program.
///
/// # Errors
/// [`InjectError`], at the latest shortly after `deadline`.
pub fn inject_userfaultfd(process: &Pidfd, deadline: Instant) -> Result<Uffd, InjectError> {
    let pid = number(process);
    let target = process
        .try_clone()
        .map_err(|source| InjectError::Take { pid, source })?;
    // A thread of its own: ptrace is bound to it, and its end releases whatever is still traced.
    // If a thread whose registers were changed does not stop again, it stays to put that right
    // while the caller goes on.
    let (answer, answers) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("lifeboat-trace".to_owned())
        .spawn(move || {
            // Nobody to tell means that the deadline has passed.
            answer.send(inject(&target, deadline)).ok();
        })
        .map_err(|source| InjectError::Thread { pid, source })?;
    let left = deadline.saturating_duration_since(Instant::now()) + ANSWER_GRACE;
    match answers.recv_timeout(left) {
        Ok(result) => result,
        Err(_) => Err(InjectError::Deadline { pid }),
    }
}

/// Tries one thread after the other.
fn inject(process: &Pidfd, deadline: Instant) -> Result<Uffd, InjectError> {
    let pid = number(process);
    let threads = threads_of(process);
    // Also what remains when every thread was gone: a process that is ending.
    let mut last = InjectError::Gone { pid };
    for (index, tid) in threads.iter().enumerate() {
        let now = Instant::now();
        let tries = u32::try_from(threads.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(now) / tries;
        match Tracer::seize(process, *tid).and_then(|tracer| tracer.stop(now + share)) {
            Ok(mut stopped) => return make_userfaultfd(process, &mut stopped, deadline),
            Err(TraceError::Gone { .. }) => {}
            Err(TraceError::Deadline { .. }) => last = InjectError::Deadline { pid },
            Err(source) if source.concerns_this_thread_only() => {
                last = InjectError::Trace { pid, source };
            }
            Err(source) => return Err(InjectError::Trace { pid, source }),
        }
    }
    if process.is_alive() {
        Err(last)
    } else {
        Err(InjectError::Gone { pid })
    }
}

fn make_userfaultfd(
    process: &Pidfd,
    stopped: &mut Stopped<'_>,
    deadline: Instant,
) -> Result<Uffd, InjectError> {
    let pid = number(process);
    let trace = |source| match source {
        TraceError::Gone { .. } => InjectError::Gone { pid },
        TraceError::Deadline { .. } => InjectError::Deadline { pid },
        source => InjectError::Trace { pid, source },
    };
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK).cast_unsigned() | UFFD_USER_MODE_ONLY;
    let arguments = [u64::from(flags), 0, 0, 0, 0, 0];
    let created = stopped
        .system_call(libc::SYS_userfaultfd, arguments, deadline)
        .map_err(trace)?;
    let there = created.map_err(|source| InjectError::Call {
        call: "userfaultfd",
        pid,
        source,
    })?;

    let taken = RawFd::try_from(there)
        .map_err(|_| PidfdError::Gone { pid })
        .and_then(|number| process.get_fd(number));
    let closed = stopped.system_call(libc::SYS_close, [there, 0, 0, 0, 0, 0], deadline);
    closed.map_err(trace)?.map_err(|source| InjectError::Call {
        call: "close",
        pid,
        source,
    })?;
    taken
        .map(Uffd::from)
        .map_err(|source| InjectError::Take { pid, source })
}

/// The threads to try, the first one first.
fn threads_of(process: &Pidfd) -> Vec<Pid> {
    let mut threads = vec![process.pid()];
    let entries = fs::read_dir(format!("/proc/{}/task", number(process)));
    let others = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|tid| *tid != process.pid());
    threads.extend(others.take(THREADS_TRIED_MAX - 1));
    threads
}

fn number(process: &Pidfd) -> i32 {
    process.pid().as_raw_nonzero().get()
}
