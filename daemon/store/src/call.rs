//! What a caller says about one operation besides its arguments.

use std::time::Duration;

use tokio::time::Instant;

/// Circumstances of one operation. `Call::default()` has no deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// When the answer becomes worthless. Retries stop there, and an operation under way is given up.
    pub deadline: Option<Instant>,
}

impl Call {
    /// An operation that must be over at `deadline` (a `std` or `tokio` instant).
    #[must_use]
    pub fn by(deadline: impl Into<Instant>) -> Self {
        Self {
            deadline: Some(deadline.into()),
        }
    }

    /// An operation that must be over `budget` from now.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self {
            deadline: Instant::now().checked_add(budget),
        }
    }

    /// Time left; none if there is no deadline.
    #[must_use]
    pub fn left(self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The same call, over `budget` from now at the latest.
    #[must_use]
    pub fn at_most(self, budget: Duration) -> Self {
        let limit = Self::within(budget).deadline;
        Self {
            deadline: [self.deadline, limit].into_iter().flatten().min(),
        }
    }
}
