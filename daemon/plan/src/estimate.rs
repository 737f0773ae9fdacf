//! Measured values that change: means that forget, and how far single values stray from them.

use std::time::Duration;

use crate::numbers::float;

/// A mean in which newer values count more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ewma {
    mean: f64,
    variance: f64,
    /// Sum of the weights so far, at most 1.
    weight: f64,
}

impl Ewma {
    /// Nothing was measured.
    pub const EMPTY: Self = Self {
        mean: 0.0,
        variance: 0.0,
        weight: 0.0,
    };

    /// Notes a value that makes `share` (0 to 1) of the mean from now on. The first value makes all
    /// of it, the next ones more than `share` as long as there are few.
    pub fn note(&mut self, value: f64, share: f64) {
        if !value.is_finite() {
            return;
        }
        let share = share.clamp(0.0, 1.0);
        self.weight = self.weight * (1.0 - share) + share;
        if self.weight <= 0.0 {
            return;
        }
        let gain = share / self.weight;
        let off = value - self.mean;
        self.mean += gain * off;
        self.variance = (1.0 - gain) * (self.variance + gain * off * off);
    }

    /// Makes the values so far count `keep` (0 to 1) of what they did, against those to come. The mean
    /// stays.
    pub fn fade(&mut self, keep: f64) {
        self.weight *= keep.clamp(WEIGHT_MIN, 1.0);
        if self.weight > 0.0 {
            self.weight = self.weight.max(WEIGHT_MIN);
        }
    }

    /// The mean, if anything was measured.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then_some(self.mean)
    }

    /// Standard deviation of single values; zero when nothing was measured.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }
}

impl Default for Ewma {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// What was measured once always counts this much: it is better than nothing.
const WEIGHT_MIN: f64 = 1e-6;

/// Busy time after which a measured rate counts for 1/e.
const RATE_MEMORY: Duration = Duration::from_secs(4);

/// Time without a measurement after which an old one counts for 1/e against the next: networks change.
const RATE_KEPT: Duration = Duration::from_secs(10);

/// Shortest time over which a rate is measured.
const WINDOW_MIN: Duration = Duration::from_millis(200);

/// Least bytes of a window that says something about the rate, not only about latency.
const WINDOW_BYTES_MIN: u64 = 256 << 10;

/// How many bytes per second the link takes, from what was really uploaded.
///
/// Only times in which something was under way are noted. What is noted is gathered into windows of
/// [`WINDOW_MIN`], since single acknowledgements come in bursts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    rate: Ewma,
    bytes: u64,
    busy: Duration,
}

impl Throughput {
    /// Nothing was measured.
    pub const EMPTY: Self = Self {
        rate: Ewma::EMPTY,
        bytes: 0,
        busy: Duration::ZERO,
    };

    /// Notes that `bytes` were acknowledged during `busy`, in which at least one upload was under
    /// way all the time. `end`: nothing is under way any more.
    pub fn note(&mut self, bytes: u64, busy: Duration, end: bool) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.busy = self.busy.saturating_add(busy);
        if self.bytes >= WINDOW_BYTES_MIN && (end || self.busy >= WINDOW_MIN) {
            let seconds = self.busy.as_secs_f64().max(1e-6);
            let share = 1.0 - (-seconds / RATE_MEMORY.as_secs_f64()).exp();
            self.rate.note(float(self.bytes) / seconds, share);
            (self.bytes, self.busy) = (0, Duration::ZERO);
        } else if end {
            // Too little to tell a rate from a latency.
            (self.bytes, self.busy) = (0, Duration::ZERO);
        }
    }

    /// Notes that `age` has passed since the last note: the older a measurement, the faster a newer one
    /// replaces it.
    pub fn fade(&mut self, age: Duration) {
        let keep = (-age.as_secs_f64() / RATE_KEPT.as_secs_f64()).exp();
        self.rate.fade(keep);
    }

    /// Goes on with what was measured later elsewhere: it replaces this by its weight.
    pub fn follow(&mut self, later: &Self) {
        if let Some(rate) = later.rate() {
            self.rate.note(rate, later.rate.weight);
        }
    }

    /// Bytes per second, if known.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rate.mean().filter(|rate| *rate > 0.0)
    }

    /// Standard deviation of the rate, relative to it.
    #[must_use]
    pub fn spread(&self) -> f64 {
        self.rate()
            .map_or(0.0, |rate| (self.rate.deviation() / rate).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts_in_full_and_later_ones_move_the_mean() {
        let mut ewma = Ewma::default();
        assert_eq!(ewma.mean(), None);
        ewma.note(10.0, 0.2);
        assert_eq!(ewma.mean(), Some(10.0));
        ewma.note(20.0, 0.2);
        let mean = ewma.mean().unwrap();
        // Two values: the newer one counts 0.2 / 0.36.
        assert!((mean - 15.56).abs() < 0.01, "{mean}");
        for _ in 0..50 {
            ewma.note(20.0, 0.2);
        }
        assert!((ewma.mean().unwrap() - 20.0).abs() < 0.01);
        assert!(ewma.deviation() < 0.2);
        ewma.note(f64::NAN, 0.5);
        assert!(ewma.mean().unwrap().is_finite());
    }

    #[test]
    fn the_spread_is_the_standard_deviation_of_a_steady_noise() {
        let mut ewma = Ewma::default();
        for at in 0..1000 {
            ewma.note(if at % 2 == 0 { 90.0 } else { 110.0 }, 0.05);
        }
        assert!(
            (ewma.deviation() - 10.0).abs() < 1.0,
            "{}",
            ewma.deviation()
        );
    }

    #[test]
    fn a_rate_is_learnt_from_bursts_and_forgotten_after_seconds() {
        let mut rate = Throughput::default();
        // 16 MB every 160 ms, in single acknowledgements.
        for _ in 0..50 {
            rate.note(16_000_000, Duration::from_millis(160), false);
        }
        let before = rate.rate().unwrap();
        assert!((before - 1e8).abs() < 1e6, "{before}");
        assert!(rate.spread() < 0.05);
        for _ in 0..100 {
            rate.note(16_000_000, Duration::from_millis(320), false);
        }
        let after = rate.rate().unwrap();
        assert!((after - 5e7).abs() < 1e6, "{after}");
    }

    #[test]
    fn what_is_old_gives_way_at_once() {
        let mut rate = Throughput::default();
        for _ in 0..50 {
            rate.note(16_000_000, Duration::from_millis(160), false);
        }
        rate.fade(Duration::from_secs(300));
        assert!((rate.rate().unwrap() - 1e8).abs() < 1e6);
        rate.note(4_000_000, Duration::from_millis(400), false);
        assert!((rate.rate().unwrap() - 1e7).abs() < 1e6, "{rate:?}");
    }

    #[test]
    fn small_objects_say_nothing_about_the_rate() {
        let mut rate = Throughput::default();
        rate.note(4096, Duration::from_millis(500), true);
        assert_eq!(rate.rate(), None);
    }
}
