//! The codec of each frame: what they cost on this memory is learnt by using them.

use crate::{
    codec::{Codec, Cost, Costs, Mix},
    estimate::Ewma,
    numbers::float,
};

/// Of so many frames one is encoded with a codec that was not used lately, to learn what it costs.
pub const EXPLORE_EVERY: u32 = 64;

/// A measured frame makes this share of the mean.
const SHARE: f64 = 0.1;

/// A frame that took this many times as long as usual was interrupted: it counts as this much.
const OUTLIER: f64 = 4.0;

/// Learns what codecs cost and gain on one kind of content.
#[derive(Clone, Copy, Debug, Default)]
pub struct CodecEstimator {
    known: [Known; Codec::ALL.len()],
    frames: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    ratio: Ewma,
    seconds_per_byte: Ewma,
    /// Number of the frame it was used for last.
    used: u32,
}

impl CodecEstimator {
    /// Notes that a frame took `seconds` of a thread and became `stored_bytes`.
    pub fn note(&mut self, codec: Codec, raw_bytes: u64, stored_bytes: u64, seconds: f64) {
        if raw_bytes == 0 {
            return;
        }
        self.frames = self.frames.saturating_add(1);
        let known = &mut self.known[codec.index()];
        known.used = self.frames;
        known
            .ratio
            .note(float(stored_bytes) / float(raw_bytes), SHARE);
        let took = seconds / float(raw_bytes);
        let usual = known.seconds_per_byte.mean();
        let took = usual.map_or(took, |usual| took.min(usual * OUTLIER));
        known.seconds_per_byte.note(took, SHARE);
    }

    /// What is known; the rest as in `unknown`.
    #[must_use]
    pub fn costs(&self, unknown: &Costs) -> Costs {
        Codec::ALL.into_iter().fold(*unknown, |costs, codec| {
            let known = &self.known[codec.index()];
            let (ratio, time) = (known.ratio.mean(), known.seconds_per_byte.mean());
            match ratio.zip(time) {
                Some((ratio, seconds_per_byte)) => costs.with(
                    codec,
                    Cost {
                        ratio,
                        seconds_per_byte,
                    },
                ),
                None => costs,
            }
        })
    }

    /// Whether anything was measured.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Whether it is known what a codec costs and gains.
    #[must_use]
    pub fn is_measured(&self, codec: Codec) -> bool {
        !self.is_new(codec)
    }

    /// The codec to learn about with the next frame, if it is time: the one that was used least
    /// lately, unless it could not be of use whatever it gains. `mix` is what would be done
    /// otherwise, for each raw byte, with so many threads.
    #[must_use]
    pub fn explore(&self, mix: &Mix, threads: f64) -> Option<Codec> {
        let oldest = Codec::ALL
            .into_iter()
            .filter(|codec| !(*codec == mix.light || *codec == mix.heavy) || self.is_new(*codec))
            .filter(|codec| {
                let time = self.known[codec.index()].seconds_per_byte.mean();
                time.is_none_or(|time| time / threads.max(1e-3) < mix.seconds)
            })
            .min_by_key(|codec| self.known[codec.index()].used)?;
        let due =
            self.is_new(oldest) || self.frames - self.known[oldest.index()].used >= EXPLORE_EVERY;
        due.then_some(oldest)
    }

    fn is_new(&self, codec: Codec) -> bool {
        self.known[codec.index()].ratio.mean().is_none()
    }
}

/// Turns shares into single choices: over many frames each codec gets its share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dither {
    owed: f64,
}

impl Dither {
    /// The codec for the next frame.
    pub fn next(&mut self, mix: &Mix) -> Codec {
        self.owed += mix.heavy_share;
        if self.owed >= 0.5 {
            self.owed -= 1.0;
            mix.heavy
        } else {
            mix.light
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Resources, best_mix};

    /// Encodes `frames` frames of content with `truth`, as the daemon does.
    fn run(truth: &Costs, resources: Resources, frames: u32) -> (CodecEstimator, [u32; 4]) {
        let (mut estimator, mut dither) = (CodecEstimator::default(), Dither::default());
        let mut used = [0; 4];
        for _ in 0..frames {
            let mix = best_mix(&estimator.costs(&Costs::default()), resources);
            let codec = estimator
                .explore(&mix, resources.threads)
                .unwrap_or_else(|| dither.next(&mix));
            used[codec.index()] += 1;
            let cost = truth.of(codec);
            let raw = 256 << 10;
            let stored = crate::numbers::bytes(float(raw) * cost.ratio);
            estimator.note(codec, raw, stored, float(raw) * cost.seconds_per_byte);
        }
        (estimator, used)
    }

    #[test]
    fn what_is_learnt_replaces_what_was_assumed() {
        // Random numbers: nothing is gained.
        let truth = Codec::ALL
            .into_iter()
            .fold(Costs::default(), |costs, codec| {
                let cost = Cost {
                    ratio: 1.0,
                    ..costs.of(codec)
                };
                costs.with(codec, cost)
            });
        let resources = Resources {
            threads: 2.0,
            bytes_per_second: 20e6,
        };
        let (estimator, used) = run(&truth, resources, 640);
        assert_eq!(
            estimator.costs(&Costs::default()).of(Codec::Zstd1).ratio,
            1.0
        );
        assert!(used[0] > 580, "{used:?}");
    }

    #[test]
    fn exploring_takes_a_small_part_of_the_frames() {
        let resources = Resources {
            threads: 2.0,
            bytes_per_second: 330e6,
        };
        let (_, used) = run(&Costs::default(), resources, 6400);
        assert!(used[2] > 5000, "{used:?}");
        // Level 6 alone would take longer than the link does: it is looked at once.
        assert_eq!(used[3], 1, "{used:?}");
    }

    #[test]
    fn shares_are_kept_exactly_over_many_frames() {
        let mix = Mix {
            light: Codec::Lz4,
            heavy: Codec::Zstd1,
            heavy_share: 0.3,
            cost: Costs::default().of(Codec::Lz4),
            seconds: 1.0,
        };
        let mut dither = Dither::default();
        let heavy = (0..1000)
            .filter(|_| dither.next(&mix) == Codec::Zstd1)
            .count();
        assert!((299..=301).contains(&heavy), "{heavy}");
    }

    #[test]
    fn an_interrupted_frame_does_not_count_in_full() {
        let mut estimator = CodecEstimator::default();
        for _ in 0..20 {
            estimator.note(Codec::Lz4, 1 << 18, 1 << 17, 1e-3);
        }
        let before = estimator.costs(&Costs::default()).of(Codec::Lz4);
        estimator.note(Codec::Lz4, 1 << 18, 1 << 17, 1.0);
        let after = estimator.costs(&Costs::default()).of(Codec::Lz4);
        assert!(after.seconds_per_byte < 1.5 * before.seconds_per_byte);
    }
}
