//! A deadline for waitid(2), which has none of its own.
//!
//! There is no descriptor to wait on for the stops of a tracee, and looking again and again is an
//! order of magnitude slower than blocking on a busy machine. So a timer interrupts the blocked
//! call by a signal to this thread, whose handler does nothing. The signal is one real-time signal
//! of this process, given its handler at first use.

use std::{io, marker::PhantomData, mem, ptr::null_mut, sync::OnceLock, time::Instant};

/// After the deadline the signal is repeated, as the first one may come just before the call.
const REPEAT_NANOSECONDS: libc::c_long = 1_000_000;

/// Interrupts the calling thread.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: libc::timer_t,
    _bound_to_thread: PhantomData<*mut ()>,
}

impl Alarm {
    /// An alarm for the calling thread, not set.
    pub(super) fn new() -> io::Result<Self> {
        static HANDLER: OnceLock<Result<(), i32>> = OnceLock::new();
        HANDLER
            .get_or_init(install_handler)
            .map_err(io::Error::from_raw_os_error)?;
        unblock()?;
        // SAFETY: plain data, for which zeros are valid.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer: libc::timer_t = null_mut();
        // SAFETY: the event is initialised, and `timer` is valid for writes.
        let created =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        check(created)?;
        Ok(Self {
            timer,
            _bound_to_thread: PhantomData,
        })
    }

    /// Interrupts blocking calls of this thread from `deadline` on; `None`: never.
    pub(super) fn set(&self, deadline: Option<Instant>) -> io::Result<()> {
        let never = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let times = match deadline {
            None => libc::itimerspec {
                it_interval: never,
                it_value: never,
            },
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let value = libc::timespec {
                    tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                    // Nothing at all would disarm it.
                    tv_nsec: libc::c_long::from(left.subsec_nanos()).max(1),
                };
                let interval = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: REPEAT_NANOSECONDS,
                };
                libc::itimerspec {
                    it_interval: interval,
                    it_value: value,
                }
            }
        };
        // SAFETY: the timer is ours; the times are initialised; the old ones are not wanted.
        let set = unsafe { libc::timer_settime(self.timer, 0, &raw const times, null_mut()) };
        check(set)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is not used any more.
        unsafe { libc::timer_delete(self.timer) };
    }
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

extern "C" fn nothing(_: libc::c_int) {}

/// Without `SA_RESTART`: the interruption is the point.
fn install_handler() -> Result<(), i32> {
    // SAFETY: plain data, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the action is initialised, and its handler does nothing.
    let installed = unsafe { libc::sigaction(signal(), &raw const action, null_mut()) };
    check(installed).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
}

/// For this thread only.
fn unblock() -> io::Result<()> {
    // SAFETY: plain data, for which zeros are valid.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is valid, and the signal is one of the kernel's.
    let added = unsafe { libc::sigaddset(&raw mut set, signal()) };
    check(added)?;
    // SAFETY: the set is initialised; the old one is not wanted.
    let unblocked = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut()) };
    if unblocked == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(unblocked))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
