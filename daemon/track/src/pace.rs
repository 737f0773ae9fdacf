//! How often to look, so that looking costs the workload no more than it may.
//!
//! Each page that a round protects costs its process a fault when it is written next. With a round
//! every so often, a page that is written all the time costs one fault a round; the share of its
//! processor time that a workload loses that way is
//!
//! pages reported × cost of a fault ÷ processor time used since the round before.
//!
//! Pages that were reported for the first time cost nothing of this; counting them makes the
//! first rounds rarer than they need be, and no others.

use std::time::Duration;

/// Cost of a write fault that takes away protection, where nobody has measured it.
pub const FAULT_COST: Duration = Duration::from_micros(2);

/// A workload that uses less than this share of one processor is taken to use it: what it loses is
/// little, however large a part of its time.
const IDLE_SHARE: f64 = 0.05;

/// Most that the interval changes in one step.
const STEP: f64 = 2.0;

/// What looking may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Share of the workload's processor time that goes into write faults, at most.
    pub share: f64,
    /// Cost of one such fault.
    pub fault_cost: Duration,
    /// Shortest interval.
    pub shortest: Duration,
    /// Longest interval; the budget is exceeded rather than this.
    pub longest: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            share: 0.02,
            fault_cost: FAULT_COST,
            shortest: Duration::from_millis(200),
            longest: Duration::from_secs(30),
        }
    }
}

/// What the last interval cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Its length.
    pub interval: Duration,
    /// Pages that were reported at its end.
    pub pages: u64,
    /// Processor time that the workload used in it.
    pub used: Duration,
}

impl Cost {
    /// Share of the workload's processor time that went into write faults, at most.
    #[must_use]
    pub fn share(&self, budget: &Budget) -> f64 {
        let faults = budget.fault_cost.as_secs_f64() * count(self.pages);
        let used = self
            .used
            .as_secs_f64()
            .max(IDLE_SHARE * self.interval.as_secs_f64());
        if used > 0.0 { faults / used } else { 0.0 }
    }

    /// The interval to the next round.
    ///
    /// If the same pages are written again and again, their number does not grow with the interval,
    /// and the share falls as the interval grows. If it is always other pages, the share stays, and
    /// the interval becomes the longest one.
    #[must_use]
    pub fn next_interval(&self, budget: &Budget) -> Duration {
        let factor = (self.share(budget) / budget.share).clamp(1.0 / STEP, STEP);
        let next = self.interval.max(budget.shortest).mul_f64(factor);
        next.clamp(budget.shortest, budget.longest.max(budget.shortest))
    }
}

/// As a number to multiply with; exact far beyond what memory holds.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn count(pages: u64) -> f64 {
    pages as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rounds of a workload that uses one processor and writes `rate` pages a second, uniformly
    /// among `pages`; returns the last interval and the share that it costs.
    fn steady(pages: f64, rate: f64) -> (Duration, f64) {
        let budget = Budget::default();
        let mut interval = budget.shortest;
        let mut share = 0.0;
        for _ in 0..50 {
            let seconds = interval.as_secs_f64();
            let dirty = pages * (1.0 - (-rate * seconds / pages).exp());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a test"
            )]
            let cost = Cost {
                interval,
                pages: dirty as u64,
                used: interval,
            };
            share = cost.share(&budget);
            interval = cost.next_interval(&budget);
        }
        (interval, share)
    }

    #[test]
    fn an_idle_workload_is_looked_at_as_often_as_may_be() {
        assert_eq!(steady(1e6, 10.0).0, Budget::default().shortest);
    }

    #[test]
    fn a_working_set_that_is_rewritten_costs_what_it_may() {
        // 262 144 pages, all of them rewritten every second: half a second of faults a round.
        let (interval, share) = steady(262_144.0, 262_144.0);
        assert!((0.01..=0.021).contains(&share), "{share} at {interval:?}");
        assert!(interval > Duration::from_secs(20) && interval < Duration::from_secs(30));
    }

    #[test]
    fn what_cannot_be_afforded_is_looked_at_as_seldom_as_may_be() {
        assert_eq!(steady(1e9, 200_000.0).0, Budget::default().longest);
    }

    proptest! {
        #[test]
        fn the_interval_keeps_its_limits(pages: u64, interval in 0_u64..1 << 40, used in 0_u64..1 << 40) {
            let budget = Budget::default();
            let cost = Cost {
                interval: Duration::from_nanos(interval),
                pages,
                used: Duration::from_nanos(used),
            };
            let next = cost.next_interval(&budget);
            prop_assert!(next >= budget.shortest && next <= budget.longest);
        }
    }
}
