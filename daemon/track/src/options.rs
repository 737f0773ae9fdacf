//! What can be set.

use std::time::Duration;

/// Settings of a tracker.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest time that making a userfaultfd in one process may take. While it is made, one thread
    /// of the process stands still, normally for a fraction of a millisecond.
    pub attach_timeout: Duration,
    /// A page that was dirty in so many rounds in a row is no longer protected, and is left for the
    /// end. 0: all pages are always protected; at most 31.
    pub hot_after: u8,
    /// Most runs that a round reports of one process; it may become 65536 more. What was not looked
    /// at is looked at in the next round.
    pub round_runs_max: usize,
    /// Most pages of a process whose contents are compared, when its writes cannot be tracked. 16
    /// bytes are kept for each. All of a larger process is dirty.
    pub hashed_pages_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attach_timeout: Duration::from_millis(500),
            hot_after: 3,
            round_runs_max: 1 << 20,
            hashed_pages_max: 1 << 18,
        }
    }
}
