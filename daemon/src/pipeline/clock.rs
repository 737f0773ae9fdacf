//! What a frame has cost a thread.

use std::{
    ops::Add,
    time::{Duration, Instant},
};

/// Time spent on something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// Of a processor.
    pub busy: Duration,
    /// On the wall.
    pub took: Duration,
}

impl Add for Spent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            busy: self.busy + other.busy,
            took: self.took + other.took,
        }
    }
}

/// Measures what this thread spends from now on.
#[derive(Debug)]
pub(super) struct Clock {
    began: Instant,
    busy_before: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            began: Instant::now(),
            busy_before: busy(),
        }
    }

    pub(super) fn spent(&self) -> Spent {
        Spent {
            busy: busy().saturating_sub(self.busy_before),
            took: self.began.elapsed(),
        }
    }
}

/// Time of a processor that this thread has used.
fn busy() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}
