//! Descriptors that the parent process passed under fixed numbers.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Takes over the descriptor that the parent process passed as `number`; it is close-on-exec from
/// then on. Call it at the start of the process, before anything else could have got the number,
/// and once.
///
/// # Errors
/// When there is no such descriptor, or the kernel has no pidfd_getfd(2) (before 5.6).
pub fn take(number: i32) -> io::Result<OwnedFd> {
    // A descriptor of this very process: the kernel allows it without privileges.
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let taken = pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?;
    nix::unistd::close(number)?;
    Ok(taken)
}

/// A copy of one of this process's standard streams.
///
/// # Errors
/// When there are no descriptors left.
pub fn copy(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}
