//! What pre-copy may cost, and what follows from it.

use std::time::Duration;

use lifeboat_track::Budget;
use serde::{Deserialize, Serialize};

use super::{ahead::Figures, batch::Done, hurry::needed};

/// Share of a processor that looking for written pages may take.
const LOOKING_SHARE: f64 = 0.01;

/// Interval of rounds when there is no time to spare.
const HURRIED: Duration = Duration::from_millis(200);

/// What a save takes besides moving bytes, until it has been measured.
pub(crate) const FIXED_COST: Duration = Duration::from_millis(500);

/// What may be spent on copying memory ahead of time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Whether memory is copied ahead of time at all.
    pub enabled: bool,
    /// Share of one processor for reading and compressing in the background, 0.01 to 1.
    pub cpu_share: f64,
    /// Most bytes sent to the store in a second, in the background; 0: as many as go through.
    pub bytes_per_second: u64,
    /// Share of its processor time that a workload may lose to write faults.
    pub workload_share: f64,
    /// Shortest time between two looks at what was written.
    #[serde(with = "humantime_serde")]
    pub shortest: Duration,
    /// Longest time between two looks.
    #[serde(with = "humantime_serde")]
    pub longest: Duration,
    /// What the time from a notice to the commit is to stay below; a third of the time that a notice
    /// leaves where nothing is said.
    #[serde(with = "humantime_serde")]
    pub target: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enabled: true,
            cpu_share: 0.5,
            bytes_per_second: 0,
            workload_share: 0.02,
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            target: None,
        }
    }
}

impl Limits {
    /// What is wrong with them.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let is_share = |share: f64| (0.001..=1.0).contains(&share);
        if !is_share(self.cpu_share) || !is_share(self.workload_share) {
            return Some("shares are between 0.001 and 1");
        }
        if self.shortest < Duration::from_millis(50) || self.longest < self.shortest {
            return Some("use at least 50ms, and no longest below the shortest");
        }
        None
    }

    /// Time from the last round to the next.
    /// `target` is what [`time_to_safe`] must stay below: sparing the workload comes second to that.
    pub(super) fn until_next_round(
        &self,
        figures: &Figures,
        is_hurried: bool,
        target: Duration,
    ) -> Duration {
        if is_hurried {
            return HURRIED;
        }
        if figures.is_partial {
            return Duration::ZERO;
        }
        let budget = Budget {
            share: self.workload_share,
            shortest: self.shortest,
            longest: self.longest,
            ..Budget::default()
        };
        let by_faults = figures.cost.next_interval(&budget);
        let by_looking = figures.round_took.mul_f64(1.0 / LOOKING_SHARE);
        let wanted = by_faults.min(until_unsaved(figures, target).max(self.shortest));
        wanted.max(by_looking).min(self.longest)
    }

    /// Time to rest after a batch.
    pub(super) fn rest(&self, done: Done) -> Duration {
        let by_processor = done
            .took
            .mul_f64(1.0 / self.cpu_share.clamp(0.001, 1.0) - 1.0);
        let by_link = match self.bytes_per_second {
            0 => Duration::ZERO,
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            rate => needed(done.sent_bytes, rate as f64).saturating_sub(done.took),
        };
        by_processor.max(by_link)
    }
}

/// How long after a round so much is written again that saving it takes `target`.
fn until_unsaved(figures: &Figures, target: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let left = figures.left_bytes as f64;
    let room = figures.rate * target.saturating_sub(FIXED_COST).as_secs_f64() - left;
    if figures.rate <= 0.0 || figures.dirty_rate <= 0.0 {
        return Duration::MAX;
    }
    // Half of it, since the next round's pages must be sent too.
    let seconds = (room / 2.0 / figures.dirty_rate).max(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Time from a notice to a commit, if it came now.
pub(crate) fn time_to_safe(figures: &Figures) -> Option<Duration> {
    (figures.rate > 0.0).then(|| needed(figures.unsaved_bytes(), figures.rate) + FIXED_COST)
}

/// Why a workload cannot be evacuated within `notice`, if it cannot.
pub(crate) fn verdict(figures: &Figures, notice: Duration) -> Option<String> {
    let time = time_to_safe(figures)?;
    if time <= notice {
        return None;
    }
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let unsaved = figures.unsaved_bytes() as f64;
    Some(format!(
        "cannot be evacuated in time: {:.0} MiB are not saved, which takes {:.1} s at {:.0} MiB/s; a \
         notice leaves {:.1} s. It writes {:.0} MiB/s",
        mib(unsaved),
        time.as_secs_f64(),
        mib(figures.rate),
        notice.as_secs_f64(),
        mib(figures.dirty_rate),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use lifeboat_track::Cost;

    use super::*;

    const TARGET: Duration = Duration::from_secs(8);

    fn done(took_ms: u64, sent_bytes: u64) -> Done {
        Done {
            sent_bytes,
            took: Duration::from_millis(took_ms),
        }
    }

    #[test]
    fn half_a_processor_means_to_rest_as_long_as_one_works() {
        let limits = Limits {
            cpu_share: 0.5,
            ..Limits::default()
        };
        assert_eq!(limits.rest(done(80, 1 << 20)), Duration::from_millis(80));
    }

    #[test]
    fn the_link_is_shared_too() {
        let limits = Limits {
            cpu_share: 1.0,
            bytes_per_second: 10 << 20,
            ..Limits::default()
        };
        assert_eq!(limits.rest(done(200, 10 << 20)), Duration::from_millis(800));
    }

    #[test]
    fn looking_at_much_memory_is_done_more_seldom() {
        let figures = Figures {
            round_took: Duration::from_millis(50),
            ..Figures::default()
        };
        let interval = Limits::default().until_next_round(&figures, false, TARGET);
        assert_eq!(interval, Duration::from_secs(5));
    }

    #[test]
    fn the_target_counts_more_than_the_cost_to_the_workload() {
        let figures = |rate: u32| Figures {
            rate: f64::from(rate << 20),
            dirty_rate: f64::from(50 << 20),
            cost: Cost {
                interval: Duration::from_secs(20),
                pages: 1 << 20,
                used: Duration::from_secs(20),
            },
            ..Figures::default()
        };
        let limits = Limits::default();
        let of = |rate| limits.until_next_round(&figures(rate), false, TARGET);
        // Half of 8 s less half a second, at 100 MiB/s.
        assert_eq!(of(100), Duration::from_millis(7500));
        assert!(of(2000) > Duration::from_secs(20));
        assert_eq!(of(1), limits.shortest);
    }

    #[test]
    fn what_cannot_be_saved_in_time_is_said_with_figures() {
        let figures = Figures {
            is_known: true,
            pending_bytes: 1 << 30,
            tracked_bytes: 1 << 30,
            rate: f64::from(32 << 20),
            round_at: Some(Instant::now()),
            ..Figures::default()
        };
        assert_eq!(verdict(&figures, Duration::from_secs(60)), None);
        let text = verdict(&figures, Duration::from_secs(25)).unwrap();
        assert!(
            text.contains("1024 MiB") && text.contains("32.5 s"),
            "{text}"
        );
    }
}
