//! What a workload needs to be saved, and how far that is.

use std::time::Duration;

use crate::{
    codec::Costs,
    machine::Machine,
    numbers::{duration, float},
};

/// How far the save of a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not begun.
    Waiting,
    /// CRIU is at it.
    Describing {
        /// Since when.
        since: Duration,
    },
    /// Memory is on its way.
    Moving {
        /// Bytes that are not encoded yet.
        raw_bytes: u64,
        /// Bytes that are encoded and not acknowledged yet.
        queued_bytes: u64,
    },
    /// All packs are acknowledged.
    Committing {
        /// Since when.
        since: Duration,
    },
    /// Committed.
    Saved,
    /// Nothing will become of it: it cannot be described, or it has ended.
    Out,
}

impl Progress {
    /// Whether it has begun and not ended.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Describing { .. } | Self::Moving { .. } | Self::Committing { .. }
        )
    }
}

/// One workload as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// What the user declared; higher ones are saved first.
    pub priority: i32,
    /// Bytes of memory that the store does not have.
    pub unsaved_bytes: u64,
    /// Most that these can become while it runs: its working set if pages are copied ahead, or all of
    /// its memory.
    pub unsaved_bytes_max: u64,
    /// Bytes per second that are written newly while it runs.
    pub dirty_bytes_per_second: u64,
    /// Time that CRIU takes to describe it.
    pub describe: Duration,
    /// What encoding its memory costs and gains.
    pub costs: Costs,
    /// How far it is.
    pub progress: Progress,
}

impl Need {
    /// Unsaved bytes when it is frozen `after` seconds from now.
    pub(crate) fn unsaved_after(&self, after: f64) -> f64 {
        let now = float(self.unsaved_bytes);
        let most = float(self.unsaved_bytes_max).max(now);
        (now + float(self.dirty_bytes_per_second) * after).min(most)
    }

    /// Seconds of the whole machine for a raw byte.
    pub(crate) fn seconds_per_byte(&self, machine: &Machine) -> f64 {
        machine.mix(&self.costs).seconds
    }

    /// Seconds of the whole machine until its memory is moved, if it is frozen `after` seconds from
    /// now; less if it is moving already.
    pub(crate) fn work(&self, machine: &Machine, after: f64) -> f64 {
        match self.progress {
            Progress::Waiting | Progress::Describing { .. } => {
                self.seconds_per_byte(machine) * self.unsaved_after(after)
            }
            Progress::Moving {
                raw_bytes,
                queued_bytes,
            } => {
                self.seconds_per_byte(machine) * float(raw_bytes)
                    + float(queued_bytes) / machine.link.bytes_per_second.max(1.0)
            }
            Progress::Committing { .. } | Progress::Saved | Progress::Out => 0.0,
        }
    }

    /// Seconds that CRIU still takes.
    pub(crate) fn describe_left(&self) -> f64 {
        let whole = self.describe.as_secs_f64();
        match self.progress {
            Progress::Waiting => whole,
            Progress::Describing { since } => (whole - since.as_secs_f64()).max(0.0),
            _ => 0.0,
        }
    }

    /// Time until it would be committed if it were the only one.
    #[must_use]
    pub fn alone(&self, machine: &Machine) -> Duration {
        let moving = self.work(machine, 0.0) / machine.share_max();
        duration(self.describe_left() + moving + machine.commit_seconds())
    }
}
