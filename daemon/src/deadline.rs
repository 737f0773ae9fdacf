//! A point in time until which something must be done, and how it is shared out.

use std::time::{Duration, Instant};

/// A point in time, on this machine's monotonic clock, until which everything must be durable.
/// `None` inside: there is no hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self(None);

    /// The deadline `budget` from now.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self(Instant::now().checked_add(budget))
    }

    /// The deadline at an instant; `None`: no deadline.
    #[must_use]
    pub const fn at(at: Option<Instant>) -> Self {
        Self(at)
    }

    /// The instant, if there is one.
    #[must_use]
    pub const fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Time left; zero when it has passed; `None` without a deadline.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// Time left in milliseconds, negative when it has passed; `None` without a deadline.
    #[must_use]
    pub fn margin_ms(self) -> Option<i64> {
        let now = Instant::now();
        self.0.map(|at| {
            let ahead = at.saturating_duration_since(now).as_millis();
            let behind = now.saturating_duration_since(at).as_millis();
            i64::try_from(ahead).unwrap_or(i64::MAX) - i64::try_from(behind).unwrap_or(i64::MAX)
        })
    }
}
