//! What all workloads share: threads, the link, and what a commit takes.

use std::time::Duration;

use crate::{
    codec::{Costs, Mix, Resources, best_mix},
    estimate::Ewma,
};

/// Share of the time left that the reserve may take at most.
const RESERVE_SHARE_MAX: f64 = 0.25;

/// A commit is allowed so many standard deviations more than its mean.
const COMMIT_DEVIATIONS: f64 = 2.0;

/// Requests of a commit that may have to be repeated: the manifest and the head.
const COMMIT_RETRIES: f64 = 2.0;

/// The way to the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes per second, measured on real uploads.
    pub bytes_per_second: f64,
    /// Standard deviation of it, relative.
    pub spread: f64,
    /// Most that one workload can use of it, in bytes per second: its uploads at once times what one
    /// connection carries. `None`: one workload can use all of it, or it is not known.
    pub workload_bytes_per_second: Option<f64>,
    /// From a small request to its answer.
    pub latency: Duration,
}

/// This machine as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Encoding threads; threads that do not get a processor of their own are a part of one.
    pub threads: f64,
    /// Trees that can be described at once without slowing each other down.
    pub describes_at_once: usize,
    /// The way to the store.
    pub link: Link,
    /// From the last acknowledged pack to the acknowledged commit.
    pub commit: Ewma,
    /// Time until the plan is made again: what a workload is started ahead, so that the link does not
    /// fall idle.
    pub lead: Duration,
}

impl Machine {
    /// Commit time while none was measured.
    const COMMIT_UNKNOWN: f64 = 0.3;

    pub(crate) fn resources(&self) -> Resources {
        Resources {
            threads: self.threads,
            bytes_per_second: self.link.bytes_per_second,
        }
    }

    /// The best mix of codecs for memory with these costs.
    #[must_use]
    pub fn mix(&self, costs: &Costs) -> Mix {
        best_mix(costs, self.resources())
    }

    /// Seconds from the last acknowledged pack to the acknowledged commit, on the average.
    pub(crate) fn commit_seconds(&self) -> f64 {
        self.commit.mean().unwrap_or(Self::COMMIT_UNKNOWN)
    }

    /// Share of the machine that a single workload can use.
    pub(crate) fn share_max(&self) -> f64 {
        let cap = self.link.workload_bytes_per_second;
        cap.map_or(1.0, |cap| {
            (cap / self.link.bytes_per_second.max(1.0)).clamp(0.01, 1.0)
        })
    }

    /// The same machine with a link that is `factor` times as fast.
    pub(crate) fn with_link(mut self, factor: f64) -> Self {
        self.link.bytes_per_second *= factor;
        self
    }
}

/// The time before the deadline that is kept for the commit: a late mean, and a repetition of each of
/// its requests. At most a quarter of the time left.
#[must_use]
pub fn reserve(machine: &Machine, left: Duration) -> Duration {
    let seconds = machine.commit_seconds()
        + COMMIT_DEVIATIONS * machine.commit.deviation()
        + COMMIT_RETRIES * machine.link.latency.as_secs_f64();
    crate::numbers::duration(seconds).min(left.mul_f64(RESERVE_SHARE_MAX))
}
