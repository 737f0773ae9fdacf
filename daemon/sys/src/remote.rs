//! Having another process make something for us, and taking it over.

use std::{
    fs, io,
    os::fd::RawFd,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use lifeboat_proto::units::PageRun;
use linux_raw_sys::general::UFFD_USER_MODE_ONLY;
use rustix::process::Pid;

use crate::{
    namespace,
    pidfd::{Pidfd, PidfdError},
    tracer::{Stopped, TraceError, Tracer},
    uffd::Uffd,
};

/// Most threads of a process that are tried before giving up.
pub const THREADS_TRIED_MAX: usize = 8;

/// Longest time that a fork under way is waited for, if it could have copied the descriptor.
const FORK_PATIENCE: Duration = Duration::from_millis(200);

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
/// If another thread of the process forks just between creating and closing, the descriptor that
/// the child got is closed there too; so that no fork is overlooked, threads that may be forking
/// are stopped once as well.
///
/// # Errors
/// [`InjectError`], at the latest shortly after `deadline`.
pub fn inject_userfaultfd(process: &Pidfd, deadline: Instant) -> Result<Uffd, InjectError> {
    on_tracing_thread(process, deadline, inject)
}

/// Has `process` advise the kernel that pages of `ranges` may be merged with others of the same
/// content (`MADV_MERGEABLE`, madvise(2)). It is found by whoever scans for them, if anybody does
/// (`/sys/kernel/mm/ksm`). One thread stands still meanwhile, some microseconds for each range. Parts
/// that are not mapped are left out.
///
/// # Errors
/// [`InjectError`]; a part may be done. EINVAL: the kernel cannot merge.
pub fn inject_mergeable(
    process: &Pidfd,
    ranges: &[PageRun],
    deadline: Instant,
) -> Result<(), InjectError> {
    let ranges = ranges.to_vec();
    on_tracing_thread(process, deadline, move |process, deadline| {
        with_stopped_thread(process, deadline, |stopped| {
            for range in ranges {
                let advice = u64::from(libc::MADV_MERGEABLE.cast_unsigned());
                let arguments = [range.start.addr().0, range.bytes(), advice, 0, 0, 0];
                match call_with(process, stopped, MADVISE, arguments, deadline) {
                    Err(InjectError::Call { source, .. })
                        if source.raw_os_error() == Some(libc::ENOMEM) => {}
                    result => drop(result?),
                }
            }
            Ok(())
        })
    })
}

fn on_tracing_thread<T: Send + 'static>(
    process: &Pidfd,
    deadline: Instant,
    work: impl FnOnce(&Pidfd, Instant) -> Result<T, InjectError> + Send + 'static,
) -> Result<T, InjectError> {
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
            answer.send(work(&target, deadline)).ok();
        })
        .map_err(|source| InjectError::Thread { pid, source })?;
    let left = deadline.saturating_duration_since(Instant::now()) + ANSWER_GRACE;
    match answers.recv_timeout(left) {
        Ok(result) => result,
        Err(_) => Err(InjectError::Deadline { pid }),
    }
}

fn inject(process: &Pidfd, deadline: Instant) -> Result<Uffd, InjectError> {
    let pid = number(process);
    let (uffd, there) = with_stopped_thread(process, deadline, |stopped| {
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK).cast_unsigned() | UFFD_USER_MODE_ONLY;
        let there = call(process, stopped, USERFAULTFD, u64::from(flags), deadline)?;
        let taken = RawFd::try_from(there)
            .map_err(|_| PidfdError::Gone { pid })
            .and_then(|number| process.get_fd(number));
        call(process, stopped, CLOSE, there, deadline)?;
        match taken {
            Ok(fd) => Ok((Uffd::from(fd), there)),
            Err(source) => Err(InjectError::Take { pid, source }),
        }
    })?;
    close_in_children(process, there, deadline);
    Ok(uffd)
}

/// A process with several threads may have forked between the two calls. Its child has a descriptor
/// then that CRIU would not dump. What cannot be closed CRIU will name.
fn close_in_children(process: &Pidfd, there: u64, deadline: Instant) {
    let threads = threads_of(process);
    if threads.len() == 1 {
        return;
    }
    // A child is copied long before it is listed. A thread that stops has finished its fork.
    let settled = deadline.min(Instant::now() + FORK_PATIENCE);
    for tid in threads
        .into_iter()
        .filter(|tid| may_be_forking(process, *tid))
    {
        let stop = || Tracer::seize(process, tid).and_then(|tracer| tracer.stop(settled).map(drop));
        apart(stop).ok();
    }
    for child in namespace::process_tree(process)
        .unwrap_or_default()
        .iter()
        .skip(1)
    {
        let link = format!("/proc/{}/fd/{there}", child.pid.as_raw_nonzero());
        let has_it = || fs::read_link(&link).is_ok_and(|link| link.as_os_str() == UFFD_LINK);
        if !has_it() {
            continue;
        }
        if let Ok(child) = Pidfd::open(child.pid) {
            with_stopped_thread(&child, deadline, |stopped| {
                // It may have closed the number itself, and have something else there.
                if has_it() {
                    call(&child, stopped, CLOSE, there, deadline)
                } else {
                    Ok(0)
                }
            })
            .ok();
        }
    }
}

/// Whether a thread is not known to do something else.
fn may_be_forking(process: &Pidfd, tid: Pid) -> bool {
    const FORKS: [libc::c_long; 4] = [
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_fork,
        libc::SYS_vfork,
    ];
    let path = format!(
        "/proc/{}/task/{}/syscall",
        number(process),
        tid.as_raw_nonzero()
    );
    // The number of a system call, or `running`, or -1 outside of one.
    let current = fs::read_to_string(path);
    let current = current
        .ok()
        .and_then(|text| text.split(' ').next()?.trim().parse().ok());
    current.is_none_or(|number| FORKS.contains(&number))
}

/// Does something with one traced thread on a thread of its own, whose end releases it.
///
/// A traced thread that another one kills by exec(2) stays a zombie until its tracer collects it or
/// ends, and the exec does not go on before, while it makes everybody wait who wants to trace
/// another thread of the process. So no thread is seized while one that did not stop is still
/// traced by the same thread of ours: neither would ever go on.
fn apart<T: Send>(trace: impl FnOnce() -> Result<T, TraceError> + Send) -> Result<T, TraceError> {
    thread::scope(|scope| {
        let traced = scope.spawn(trace).join();
        traced.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Stops one thread after the other until one can be, and has it do `work`.
fn with_stopped_thread<T: Send>(
    process: &Pidfd,
    deadline: Instant,
    work: impl FnOnce(&mut Stopped<'_>) -> Result<T, InjectError> + Send,
) -> Result<T, InjectError> {
    let pid = number(process);
    let mut threads = threads_of(process);
    threads.truncate(THREADS_TRIED_MAX);
    // Also what remains when every thread was gone: a process that is ending.
    let mut last = InjectError::Gone { pid };
    let mut work = Some(work);
    for (index, tid) in threads.iter().enumerate() {
        let now = Instant::now();
        let tries = u32::try_from(threads.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(now) / tries;
        let attempt = || {
            let mut stopped = Tracer::seize(process, *tid)?.stop(now + share)?;
            let work = work.take().expect("only the last attempt stops a thread");
            Ok(work(&mut stopped))
        };
        match apart(attempt) {
            Ok(done) => return done,
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

/// A system call.
#[derive(Clone, Copy)]
struct Call {
    name: &'static str,
    number: libc::c_long,
}

const USERFAULTFD: Call = Call {
    name: "userfaultfd",
    number: libc::SYS_userfaultfd,
};
const CLOSE: Call = Call {
    name: "close",
    number: libc::SYS_close,
};
const MADVISE: Call = Call {
    name: "madvise",
    number: libc::SYS_madvise,
};

/// What the link of a userfaultfd's descriptor reads.
const UFFD_LINK: &str = "anon_inode:[userfaultfd]";

fn call(
    process: &Pidfd,
    stopped: &mut Stopped<'_>,
    call: Call,
    argument: u64,
    deadline: Instant,
) -> Result<u64, InjectError> {
    call_with(process, stopped, call, [argument, 0, 0, 0, 0, 0], deadline)
}

fn call_with(
    process: &Pidfd,
    stopped: &mut Stopped<'_>,
    call: Call,
    arguments: [u64; 6],
    deadline: Instant,
) -> Result<u64, InjectError> {
    let pid = number(process);
    match stopped.system_call(call.number, arguments, deadline) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(source)) => Err(InjectError::Call {
            call: call.name,
            pid,
            source,
        }),
        Err(TraceError::Gone { .. }) => Err(InjectError::Gone { pid }),
        Err(TraceError::Deadline { .. }) => Err(InjectError::Deadline { pid }),
        Err(source) => Err(InjectError::Trace { pid, source }),
    }
}

/// All threads, the first one first.
fn threads_of(process: &Pidfd) -> Vec<Pid> {
    let mut threads = vec![process.pid()];
    let entries = fs::read_dir(format!("/proc/{}/task", number(process)));
    let others = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|tid| *tid != process.pid());
    threads.extend(others);
    threads
}

fn number(process: &Pidfd) -> i32 {
    process.pid().as_raw_nonzero().get()
}
