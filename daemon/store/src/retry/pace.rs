//! How long operations take lately: when to give one up, and when to start a second beside it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::Operation;

/// Latencies that are remembered for each operation and size class.
const SAMPLES_MAX: usize = 64;

/// Latencies that are needed to speak of a slow tail.
const SAMPLES_MIN: usize = 16;

/// An attempt gets this long whatever it is, and …
const TIMEOUT_BASE: Duration = Duration::from_secs(2);

/// … as long as its bytes take at this rate (per second), and …
const TIMEOUT_RATE: u64 = 4 << 20;

/// … this many times as long as the slow tail of its like took lately, …
const TIMEOUT_TAILS: u32 = 4;

/// … and not longer than this.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// No hedge earlier than this: below it, a hedge costs more than it saves.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(10);

/// Hedges for each operation, on the average.
const HEDGE_SHARE: f64 = 0.05;

/// Hedges that can be saved up.
const HEDGES_MAX: f64 = 8.0;

/// What is being done, as far as its duration depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) operation: Operation,
    size: u64,
}

impl Shape {
    pub(super) fn new(operation: Operation, size: u64) -> Self {
        Self { operation, size }
    }

    /// Sizes within a factor of two are alike; small ones all are.
    fn class(self) -> (Operation, u32) {
        (
            self.operation,
            (self.size >> 16).checked_ilog2().map_or(0, |log| log + 1),
        )
    }
}

/// Recent latencies, and the allowance for hedges.
#[derive(Debug)]
pub(super) struct Pace(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    classes: HashMap<(Operation, u32), Recent>,
    hedges: f64,
}

/// The last latencies of one class, in a ring.
#[derive(Debug, Default)]
struct Recent {
    samples: Vec<Duration>,
    next: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            classes: HashMap::new(),
            hedges: 1.0,
        }))
    }
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Numbers only: a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an attempt took this long, or longer.
    pub(super) fn took(&self, shape: Shape, latency: Duration) {
        let mut inner = self.lock();
        inner.hedges = (inner.hedges + HEDGE_SHARE).min(HEDGES_MAX);
        inner
            .classes
            .entry(shape.class())
            .or_default()
            .note(latency);
    }

    /// When to give an attempt up, after as many of the same operation took too long.
    pub(super) fn timeout(&self, shape: Shape, timeouts: u32) -> Duration {
        let floor = TIMEOUT_BASE + Duration::from_secs(1).mul_f64(ratio(shape.size, TIMEOUT_RATE));
        let tail = self
            .lock()
            .classes
            .get(&shape.class())
            .and_then(Recent::tail);
        let timeout = floor.max(tail.unwrap_or_default() * TIMEOUT_TAILS);
        timeout
            .saturating_mul(1 << timeouts.min(8))
            .min(TIMEOUT_MAX)
    }

    /// When to start a second attempt beside one that is given up after `timeout`.
    pub(super) fn hedge_after(&self, shape: Shape, timeout: Duration) -> Duration {
        let tail = self
            .lock()
            .classes
            .get(&shape.class())
            .and_then(Recent::tail);
        tail.unwrap_or(timeout / 2).max(HEDGE_AFTER_MIN)
    }

    /// Takes the allowance for one hedge, if there is one.
    pub(super) fn may_hedge(&self) -> bool {
        let mut inner = self.lock();
        let allowed = inner.hedges >= 1.0;
        if allowed {
            inner.hedges -= 1.0;
        }
        allowed
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes here are far below 2^52")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

impl Recent {
    fn note(&mut self, latency: Duration) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(latency);
        } else {
            self.samples[self.next] = latency;
            self.next = (self.next + 1) % SAMPLES_MAX;
        }
    }

    /// What 95 of 100 stayed below, if there are enough to tell.
    fn tail(&self) -> Option<Duration> {
        if self.samples.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 95 / 100).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: u64 = 16 << 20;

    fn pace(latencies: impl IntoIterator<Item = u64>) -> (Pace, Shape) {
        let (pace, shape) = (Pace::default(), Shape::new(Operation::Put, PACK));
        for millis in latencies {
            pace.took(shape, Duration::from_millis(millis));
        }
        (pace, shape)
    }

    #[test]
    fn attempts_get_time_for_their_size_and_more_when_the_store_is_slow() {
        let (pace, shape) = pace([100; 20]);
        assert_eq!(pace.timeout(shape, 0), Duration::from_secs(6));
        assert_eq!(pace.timeout(shape, 1), Duration::from_secs(12));
        assert_eq!(
            pace.timeout(Shape::new(Operation::Head, 0), 0),
            Duration::from_secs(2)
        );
        let (pace, shape) = self::pace([5_000; 20]);
        assert_eq!(pace.timeout(shape, 0), Duration::from_secs(20));
        assert_eq!(pace.timeout(shape, 30), TIMEOUT_MAX);
    }

    #[test]
    fn hedges_come_at_the_slow_tail_of_like_operations() {
        let (pace, shape) = pace((1..=100).map(|n| n * 10));
        // Of the last 64: 370 to 1000 ms.
        let after = pace.hedge_after(shape, Duration::from_secs(6));
        assert_eq!(after, Duration::from_millis(970));
        let other = Shape::new(Operation::Put, PACK / 16);
        assert_eq!(
            pace.hedge_after(other, Duration::from_secs(6)),
            Duration::from_secs(3)
        );
    }

    #[test]
    fn hedges_are_a_twentieth_of_all_operations() {
        let (pace, shape) = pace([]);
        let mut hedges = 0;
        for _ in 0..1000 {
            hedges += u32::from(pace.may_hedge());
            pace.took(shape, Duration::from_millis(1));
        }
        assert!((45..=51).contains(&hedges), "{hedges}");
    }
}
