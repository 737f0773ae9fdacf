//! Counters of a load, and a histogram of waiting times.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// Buckets for each doubling of the waiting time: figures are exact to a sixteenth.
const PER_DOUBLING: u32 = 16;

/// Doublings from a microsecond on.
const DOUBLINGS: u32 = 40;

/// Waiting times in microseconds, in buckets that grow with them.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64]>,
    longest: AtomicU64,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) installed_pages: AtomicU64,
    pub(crate) demand_faults: AtomicU64,
    pub(crate) zero_faults: AtomicU64,
    pub(crate) frames_fetched: AtomicU64,
    pub(crate) processes: AtomicU32,
    pub(crate) forked: AtomicU32,
    pub(crate) waits: Histogram,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..PER_DOUBLING * DOUBLINGS)
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            buckets,
            longest: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(crate) fn record(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let at = bucket(micros).min(self.buckets.len() - 1);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(micros, Ordering::Relaxed);
    }

    /// The waiting time that `per_mille` of a thousand did not exceed; 0 when none was recorded.
    pub(crate) fn quantile(&self, per_mille: u64) -> Duration {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let wanted = (counts.iter().sum::<u64>() * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (at, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_micros(top(at)).min(self.longest());
            }
        }
        Duration::ZERO
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

/// The bucket of a value: its highest bit, and the bits that follow.
fn bucket(micros: u64) -> usize {
    let per = u64::from(PER_DOUBLING);
    if micros < per {
        return usize::try_from(micros).unwrap_or(usize::MAX);
    }
    let doubling = u64::from(micros.ilog2() - PER_DOUBLING.ilog2());
    let within = (micros >> doubling) - per;
    usize::try_from((doubling + 1) * per + within).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn top(bucket: usize) -> u64 {
    let (bucket, per) = (bucket as u64, u64::from(PER_DOUBLING));
    if bucket < per {
        return bucket;
    }
    let (doubling, within) = (bucket / per - 1, bucket % per);
    ((per + within + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_ends_at_or_after_it() {
        for micros in (0..5000).chain([1 << 20, (1 << 30) + 12345]) {
            let at = bucket(micros);
            assert!(
                top(at) >= micros && (at == 0 || top(at - 1) < micros),
                "{micros}"
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let waits = Histogram::default();
        assert_eq!(waits.quantile(500), Duration::ZERO);
        for millis in 1..=1000 {
            waits.record(Duration::from_millis(millis));
        }
        for (per_mille, expected) in [(500, 500.0), (990, 990.0), (1000, 1000.0)] {
            let found = waits.quantile(per_mille).as_secs_f64() * 1000.0;
            assert!((found / expected - 1.0).abs() < 0.07, "{found}");
        }
        assert_eq!(waits.longest(), Duration::from_secs(1));
    }
}
