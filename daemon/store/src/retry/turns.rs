//! The attempts of one operation: how many, how long each, and how long a pause between them.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    BUDGET,
    pace::{Pace, Shape},
};
use crate::{Call, ErrorKind, StoreError};

/// Most attempts of one operation, hedges not counted.
pub const ATTEMPTS_MAX: u32 = 256;

/// Longest pause after the first failure; it doubles with each further one.
pub const PAUSE_FIRST: Duration = Duration::from_millis(25);

/// Longest pause of all. Short, since a notice leaves 30 s.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The attempts of one operation.
pub(super) struct Turns {
    pub(super) shape: Shape,
    pub(super) call: Call,
    pub(super) began: Instant,
    pub(super) attempts: u32,
    pub(super) timeouts: u32,
    pub(super) last: Option<StoreError>,
}

impl Turns {
    pub(super) fn new(shape: Shape, call: Call) -> Self {
        let call = if call.deadline.is_some() {
            call
        } else {
            call.at_most(BUDGET)
        };
        Self {
            shape,
            call,
            began: Instant::now(),
            attempts: 0,
            timeouts: 0,
            last: None,
        }
    }

    /// The next attempt's limit; none if there shall be no further one.
    pub(super) fn next(&mut self, pace: &Pace) -> Option<Call> {
        let over = self.call.left().is_some_and(|left| left.is_zero());
        if over || self.attempts >= ATTEMPTS_MAX {
            return None;
        }
        self.attempts += 1;
        Some(self.call.at_most(pace.timeout(self.shape, self.timeouts)))
    }

    /// The same, with half of what is left kept for reading back.
    pub(super) fn next_of_two(&mut self, pace: &Pace) -> Option<Call> {
        let half = self.call.left().map(|left| left / 2);
        let limit = self.next(pace)?;
        Some(half.map_or(limit, |half| limit.at_most(half)))
    }

    /// A pause of random length, which leaves most of what is left to the next attempt.
    pub(super) fn pause(&self) -> Duration {
        let doublings = self.attempts.saturating_sub(1).min(16);
        let longest = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
        let pause = longest.mul_f64(rand::random());
        self.call.left().map_or(pause, |left| pause.min(left / 4))
    }

    /// Keeps the failure that is told at the end: the last one that says more than that there was
    /// no time left for it.
    pub(super) fn remember(&mut self, error: StoreError) {
        let says_more = |error: &StoreError| error.kind() != ErrorKind::Deadline;
        if says_more(&error) || !self.last.as_ref().is_some_and(says_more) {
            self.last = Some(error);
        }
    }

    pub(super) fn give_up(self, subject: impl std::fmt::Display) -> StoreError {
        let kind = match &self.last {
            Some(last) if self.attempts >= ATTEMPTS_MAX => last.kind(),
            _ => ErrorKind::Deadline,
        };
        let found = format!("given up after {:?}", self.began.elapsed());
        let error = StoreError::new(kind, self.shape.operation, subject, found);
        let error = error.after_attempts(self.attempts);
        match self.last {
            Some(last) => error.because(last),
            None => error,
        }
    }

    pub(super) fn last_words(&self, error: StoreError) -> StoreError {
        error.after_attempts(self.attempts)
    }
}
