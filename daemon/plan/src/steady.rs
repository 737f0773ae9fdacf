//! Whether a workload could be evacuated if the notice came now: asked before any notice.

use std::time::Duration;

use crate::{
    machine::{Machine, reserve},
    need::{Need, Progress},
    numbers::{bytes, float},
};

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steady {
    /// From the notice to the commit, with the workload as it is and nothing else on the way.
    pub time_to_safe: Duration,
    /// Seconds that remain before the deadline's reserve; negative if it cannot be evacuated in time.
    pub margin: f64,
    /// Bytes per second it may write at most to stay evacuable with the link as it is; zero when its
    /// unsaved memory is too much already.
    pub dirty_bytes_per_second_max: u64,
}

impl Steady {
    /// Looks at a workload of which nothing is under way, for notices of length `deadline`.
    #[must_use]
    pub fn of(machine: &Machine, need: &Need, deadline: Duration) -> Self {
        let need = Need {
            progress: Progress::Waiting,
            ..*need
        };
        let time_to_safe = need.alone(machine);
        let kept = reserve(machine, deadline).as_secs_f64() - machine.commit_seconds();
        let margin = deadline.as_secs_f64() - kept - time_to_safe.as_secs_f64();
        let per_byte = need.seconds_per_byte(machine) / machine.share_max();
        // What it writes while everything else is done must fit into what is left of the time.
        let describe = need.describe.as_secs_f64().max(1e-3);
        let spare = margin.max(0.0) / per_byte.max(1e-15);
        Self {
            time_to_safe,
            margin,
            dirty_bytes_per_second_max: bytes((spare / describe).min(1.0 / per_byte.max(1e-15))),
        }
    }

    /// Whether it would be in time.
    #[must_use]
    pub fn is_evacuable(&self) -> bool {
        self.margin >= 0.0
    }
}

/// What is unsaved on the average when a workload is copied ahead all the time, in rounds that begin
/// `interval` after the one before has ended. What is written faster than it can be moved stays
/// unsaved as a whole.
#[must_use]
pub fn steady_unsaved(machine: &Machine, need: &Need, interval: Duration) -> u64 {
    let moved = 1.0 / (need.seconds_per_byte(machine) / machine.share_max()).max(1e-15);
    let written = float(need.dirty_bytes_per_second);
    let most = need.unsaved_bytes_max;
    if written >= moved {
        return most;
    }
    // A round moves what was written in the interval and in the round before.
    bytes(written * interval.as_secs_f64() / (1.0 - written / moved)).min(most)
}
