//! Figures of a load.

use std::time::Duration;

/// How far a load is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Captured memory of all processes at the start, in bytes (a page that several processes have
    /// counts once for each).
    pub total_bytes: u64,
    /// What is still missing, in bytes.
    pub missing_bytes: u64,
    /// Bytes installed so far.
    pub installed_bytes: u64,
    /// Page faults that had to wait for a frame.
    pub demand_faults: u64,
    /// Page faults answered with zeros.
    pub zero_faults: u64,
    /// Frames fetched so far; a frame fetched twice counts twice.
    pub frames_fetched: u64,
    /// Content fetched or waiting for its installation, in bytes.
    pub memory_bytes: u64,
    /// Processes that are served (exited ones and complete ones included).
    pub processes: u32,
    /// Processes that were forked while loading.
    pub forked: u32,
}

/// What a completed load was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The final figures.
    pub progress: Progress,
    /// From the first descriptor to the last page.
    pub elapsed: Duration,
    /// How long demand faults waited: the median.
    pub demand_p50: Duration,
    /// How long demand faults waited: 99 of 100 not longer.
    pub demand_p99: Duration,
    /// How long demand faults waited: the longest.
    pub demand_max: Duration,
}
