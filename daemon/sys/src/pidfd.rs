//! Processes as descriptors (pidfd_open(2), kernel 5.3): a number may be reused, a [`Pidfd`] never
//! means another process.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Instant,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal},
};

use crate::wait;

/// A process, by descriptor.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    pid: Pid,
}

/// Why something could not be done with a process.
#[derive(Debug, thiserror::Error)]
pub enum PidfdError {
    /// There is no such process, or it has ended (a zombie has ended).
    #[error("process {pid} is gone")]
    Gone {
        /// Its number in this namespace.
        pid: i32,
    },
    /// The kernel refused.
    #[error("{action} process {pid}")]
    Refused {
        /// What was attempted, as a verb with its object's beginning.
        action: &'static str,
        /// Number of the process in this namespace.
        pid: i32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Descriptor `number` could not be taken over.
    #[error("take descriptor {number} of process {pid}")]
    Descriptor {
        /// Number of the process in this namespace.
        pid: i32,
        /// Number of the descriptor there.
        number: RawFd,
        /// The kernel's answer: EBADF not open there, EPERM no ptrace access.
        source: io::Error,
    },
}

impl PidfdError {
    /// The process has ended.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

impl Pidfd {
    /// Opens the process with number `pid`. To be sure that it is the right one, check what is
    /// known about it afterwards, then [`Pidfd::is_alive`].
    ///
    /// # Errors
    /// [`PidfdError`].
    pub fn open(pid: Pid) -> Result<Self, PidfdError> {
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self { fd, pid }),
            Err(errno) => Err(refused("open", pid, errno)),
        }
    }

    /// Takes a descriptor that is known to be the pidfd of process `pid`.
    #[must_use]
    pub const fn from_parts(fd: OwnedFd, pid: Pid) -> Self {
        Self { fd, pid }
    }

    /// Number of the process in this namespace. Meaningless once it is reaped.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the process runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(wait::readable(&self.fd, Instant::now()), Ok(false))
    }

    /// Waits for the end of the process, which need not be a child. `false`: the deadline passed
    /// first.
    ///
    /// # Errors
    /// [`PidfdError::Refused`] when poll(2) fails.
    pub fn wait_exit(&self, deadline: Instant) -> Result<bool, PidfdError> {
        wait::readable(&self.fd, deadline).map_err(|source| PidfdError::Refused {
            action: "wait for",
            pid: number(self.pid),
            source,
        })
    }

    /// Sends `signal` (pidfd_send_signal(2)).
    ///
    /// # Errors
    /// [`PidfdError::Gone`] or what the kernel refused.
    pub fn send_signal(&self, signal: Signal) -> Result<(), PidfdError> {
        rustix::process::pidfd_send_signal(&self.fd, signal)
            .map_err(|errno| refused("signal", self.pid, errno))
    }

    /// A duplicate of descriptor `number` of the process, close-on-exec here (pidfd_getfd(2),
    /// kernel 5.6; needs ptrace access).
    ///
    /// # Errors
    /// [`PidfdError::Gone`] or [`PidfdError::Descriptor`].
    pub fn get_fd(&self, number: RawFd) -> Result<OwnedFd, PidfdError> {
        rustix::process::pidfd_getfd(&self.fd, number, PidfdGetfdFlags::empty()).map_err(|errno| {
            let pid = self::number(self.pid);
            if errno == Errno::SRCH {
                PidfdError::Gone { pid }
            } else {
                PidfdError::Descriptor {
                    pid,
                    number,
                    source: errno.into(),
                }
            }
        })
    }

    /// Another descriptor of the same process.
    ///
    /// # Errors
    /// [`PidfdError::Refused`] when this process has no room for more descriptors.
    pub fn try_clone(&self) -> Result<Self, PidfdError> {
        let fd = self.fd.try_clone().map_err(|source| PidfdError::Refused {
            action: "duplicate the pidfd of",
            pid: number(self.pid),
            source,
        })?;
        Ok(Self { fd, pid: self.pid })
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> Self {
        pidfd.fd
    }
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn refused(action: &'static str, pid: Pid, errno: Errno) -> PidfdError {
    let pid = number(pid);
    if errno == Errno::SRCH {
        PidfdError::Gone { pid }
    } else {
        PidfdError::Refused {
            action,
            pid,
            source: errno.into(),
        }
    }
}
