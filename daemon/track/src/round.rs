//! What a look at an address space tells.

use std::time::Duration;

use crate::Runs;

/// What happened since the round before.
///
/// Read the dirty pages after the round: one that is written in between is dirty in the next round.
/// What is read of a running process may be torn, which the next round's report repairs.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// To be captured (again). May hold pages that have gone meanwhile.
    pub dirty: Runs,
    /// No longer tracked: unmapped, or of a kind that is not captured. What was captured of them is
    /// void; if they come back, all that they hold is dirty.
    pub gone: Runs,
    /// Cannot be tracked: what they hold is dirty in every round, and left for the end.
    pub untracked: Runs,
    /// Written pages that are left for the end, since they are written again and again.
    pub hot_pages: u64,
    /// Size of what is tracked, holes included.
    pub tracked_pages: u64,
    /// Not everything was looked at: the report would have become too long. The next round goes on.
    pub is_partial: bool,
    /// Time it took.
    pub took: Duration,
}

/// What the memory of a process that does not run consists of.
///
/// A page that is present and not dirty is as it was when it was last captured. All that is not
/// present holds zeros.
#[derive(Clone, Debug, Default)]
pub struct Last {
    /// Pages that hold something.
    pub present: Runs,
    /// Those of them that must be captured now.
    pub dirty: Runs,
    /// Those of them that were dirty round after round.
    pub hot: Runs,
    /// Time it took.
    pub took: Duration,
}
