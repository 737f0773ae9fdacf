//! Waiting for a descriptor until a deadline.
//!
//! Interrupted waits go on with what is left of the time. A descriptor that is in an error state
//! counts as ready, so that the operation that follows reports the error.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec};

/// Waits until `fd` can be read (or is at its end, or failed). `false`: the deadline passed first.
///
/// # Errors
/// What poll(2) reports, except for interruptions.
pub fn readable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    ready(fd, PollFlags::IN, deadline)
}

/// Waits until `fd` can be written (or failed). `false`: the deadline passed first.
///
/// # Errors
/// What poll(2) reports, except for interruptions.
pub fn writable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    ready(fd, PollFlags::OUT, deadline)
}

fn ready(fd: impl AsFd, events: PollFlags, deadline: Instant) -> io::Result<bool> {
    let mut polled = [PollFd::new(&fd, events)];
    loop {
        let left = timespec(deadline.saturating_duration_since(Instant::now()));
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The time left, as ppoll(2) takes it; longer than the clock can say is forever.
fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}
