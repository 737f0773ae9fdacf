//! What can be set.

use std::time::Duration;

/// Settings of a tracker.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest time that making a userfaultfd in one process may take. While it is made, one thread
    /// of the process stands still, normally for a fraction of a millisecond.
    pub attach_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attach_timeout: Duration::from_millis(500),
        }
    }
}
