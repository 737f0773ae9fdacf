//! One wait for many descriptors.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// What to wait for, each with a word that tells who wants to know.
#[derive(Debug)]
pub struct WaitSet<'fd, T> {
    tokens: Vec<T>,
    polled: Vec<PollFd<'fd>>,
}

impl<'fd, T: Copy> WaitSet<'fd, T> {
    /// Waits for nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tokens: Vec::new(),
            polled: Vec::new(),
        }
    }

    /// Also wait until `fd` can be read.
    pub fn readable(&mut self, token: T, fd: &'fd impl AsFd) {
        self.push(token, fd, PollFlags::IN);
    }

    /// Also wait until `fd` can be written.
    pub fn writable(&mut self, token: T, fd: &'fd impl AsFd) {
        self.push(token, fd, PollFlags::OUT);
    }

    fn push(&mut self, token: T, fd: &'fd impl AsFd, events: PollFlags) {
        self.tokens.push(token);
        self.polled.push(PollFd::new(fd, events));
    }

    /// Waits until something is ready (an error or a hang-up counts, so that the operation that
    /// follows reports it) or the deadline has passed; `None`: for ever. Returns the words of what
    /// is ready.
    ///
    /// # Errors
    /// What poll(2) reports, except for interruptions.
    pub fn wait(mut self, deadline: Option<Instant>) -> io::Result<Vec<T>> {
        loop {
            let left = deadline.map(|deadline| timespec(time_left(deadline)));
            match poll(&mut self.polled, left.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let ready = self.tokens.iter().zip(&self.polled);
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(token, _)| *token)
            .collect())
    }
}

impl<T: Copy> Default for WaitSet<'_, T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The earlier one of two moments that may never come.
#[must_use]
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}
