//! Which codec a byte of memory takes, when both the processors and the link are scarce.
//!
//! Encoding a byte with a codec costs processor time, and its encoded form costs link time. Both go
//! on at the same time, so moving takes as long as the longer of the two. The best single codec
//! leaves one of them idle; a mix of a lighter and a heavier one keeps both busy. Since both costs
//! are linear in the mix, the best mix has at most two codecs, and is where both times meet.

use crate::numbers::float;

/// A way to encode a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// LZ4 block.
    Lz4,
    /// Zstandard, level 1.
    Zstd1,
    /// Zstandard, level 6.
    Zstd6,
}

impl Codec {
    /// All, from the lightest to the heaviest.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Lz4, Self::Zstd1, Self::Zstd6];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// What encoding with one codec costs and gains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Encoded bytes for each raw one.
    pub ratio: f64,
    /// Time of one thread for each raw byte, in seconds.
    pub seconds_per_byte: f64,
}

/// The costs of all codecs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs([Cost; Codec::ALL.len()]);

impl Default for Costs {
    /// Typical memory of servers on one core of 2026; for workloads of which nothing was measured.
    fn default() -> Self {
        let cost = |ratio, rate: f64| Cost {
            ratio,
            seconds_per_byte: 1.0 / rate,
        };
        Self([
            cost(1.0, 2.5e9),
            cost(0.45, 0.65e9),
            cost(0.35, 0.45e9),
            cost(0.33, 0.12e9),
        ])
    }
}

impl Costs {
    /// The cost of one codec.
    #[must_use]
    pub const fn of(&self, codec: Codec) -> Cost {
        self.0[codec.index()]
    }

    /// The same with another cost for one codec. Costs below nothing are nothing.
    #[must_use]
    pub const fn with(mut self, codec: Codec, cost: Cost) -> Self {
        self.0[codec.index()] = Cost {
            ratio: cost.ratio.max(0.0),
            seconds_per_byte: cost.seconds_per_byte.max(0.0),
        };
        self
    }
}

/// What moving shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    /// Encoding threads; a share of a processor is a part of one.
    pub threads: f64,
    /// Bytes per second that the link carries.
    pub bytes_per_second: f64,
}

/// How frames are to be encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// The lighter codec.
    pub light: Codec,
    /// The heavier codec.
    pub heavy: Codec,
    /// Share of the bytes that takes the heavier one, 0 to 1.
    pub heavy_share: f64,
    /// What a raw byte costs then.
    pub cost: Cost,
    /// How long it all takes, in seconds: for each raw byte ([`best_mix`]), or in whole
    /// ([`best_mix_ahead`]).
    pub seconds: f64,
}

impl Mix {
    /// The same mix, with the time for a single byte of `raw_bytes`.
    #[must_use]
    pub fn per_byte(mut self, raw_bytes: u64) -> Self {
        self.seconds /= float(raw_bytes.max(1));
        self
    }
}

impl Codec {
    /// Its name, for reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
            Self::Zstd1 => "zstd-1",
            Self::Zstd6 => "zstd-6",
        }
    }
}

/// The mix that moves most raw bytes per second.
#[must_use]
pub fn best_mix(costs: &Costs, resources: Resources) -> Mix {
    best(costs, resources, 1.0, 0.0)
}

/// The mix that has `raw_bytes` more encoded and uploaded soonest, when `queued_bytes` are encoded
/// and wait for the link already.
#[must_use]
pub fn best_mix_ahead(
    costs: &Costs,
    resources: Resources,
    raw_bytes: u64,
    queued_bytes: u64,
) -> Mix {
    best(
        costs,
        resources,
        float(raw_bytes.max(1)),
        float(queued_bytes),
    )
}

fn best(costs: &Costs, resources: Resources, raw: f64, queued: f64) -> Mix {
    let (threads, rate) = (
        resources.threads.max(1e-3),
        resources.bytes_per_second.max(1.0),
    );
    let encode = |codec| raw * costs.of(codec).seconds_per_byte / threads;
    let upload = |codec| (queued + raw * costs.of(codec).ratio) / rate;
    let mut best: Option<Mix> = None;
    for (at, light) in Codec::ALL.into_iter().enumerate() {
        for heavy in Codec::ALL.into_iter().skip(at) {
            let (more, less) = (encode(heavy) - encode(light), upload(heavy) - upload(light));
            // Where both times meet, if they do; the times at the ends are other pairs' business.
            let meet = (upload(light) - encode(light)) / (more - less);
            let share = if meet.is_finite() {
                meet.clamp(0.0, 1.0)
            } else {
                0.0
            };
            let seconds = (encode(light) + share * more).max(upload(light) + share * less);
            // Of equals the lighter one, which costs the reader and the other programs less.
            if best.is_none_or(|best| seconds < best.seconds * (1.0 - 1e-9)) {
                best = Some(Mix {
                    light,
                    heavy,
                    heavy_share: share,
                    cost: blend(costs.of(light), costs.of(heavy), share),
                    seconds,
                });
            }
        }
    }
    best.expect("there are codecs")
}

fn blend(light: Cost, heavy: Cost, share: f64) -> Cost {
    let between = |a: f64, b: f64| a + share * (b - a);
    Cost {
        ratio: between(light.ratio, heavy.ratio),
        seconds_per_byte: between(light.seconds_per_byte, heavy.seconds_per_byte),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on(threads: f64, megabytes: f64) -> Mix {
        let resources = Resources {
            threads,
            bytes_per_second: megabytes * 1e6,
        };
        best_mix(&Costs::default(), resources)
    }

    #[test]
    fn a_slow_link_takes_the_heaviest_codec_and_a_fast_one_none() {
        // Two threads at level 6 make 240 MB/s, 79 MB/s encoded.
        let table = [
            (20.0, Codec::Zstd6),
            (5_000.0, Codec::Raw),
            (310.0, Codec::Zstd1),
        ];
        for (megabytes, codec) in table {
            let mix = on(2.0, megabytes);
            let parts = [
                (mix.light, 1.0 - mix.heavy_share),
                (mix.heavy, mix.heavy_share),
            ];
            let share: f64 = parts
                .iter()
                .filter(|one| one.0 == codec)
                .map(|one| one.1)
                .sum();
            assert!(share >= 0.85, "{megabytes} MB/s: {mix:?}");
        }
    }

    #[test]
    fn between_two_codecs_both_the_processors_and_the_link_are_busy() {
        let mix = on(2.0, 450.0);
        let encode = mix.cost.seconds_per_byte / 2.0;
        let upload = mix.cost.ratio / 450e6;
        assert!((encode - upload).abs() < 1e-3 * encode, "{mix:?}");
        assert!(mix.heavy_share > 0.0 && mix.heavy_share < 1.0);
    }

    #[test]
    fn a_full_queue_before_the_link_asks_for_more_compression() {
        let resources = Resources {
            threads: 2.0,
            bytes_per_second: 1e9,
        };
        let costs = Costs::default();
        let idle = best_mix_ahead(&costs, resources, 64 << 20, 0);
        let behind = best_mix_ahead(&costs, resources, 64 << 20, 512 << 20);
        assert!(behind.cost.ratio < idle.cost.ratio, "{idle:?} {behind:?}");
    }

    #[test]
    fn incompressible_memory_is_not_compressed() {
        let mut costs = Costs::default();
        for codec in [Codec::Lz4, Codec::Zstd1, Codec::Zstd6] {
            let cost = Cost {
                ratio: 1.0,
                ..costs.of(codec)
            };
            costs = costs.with(codec, cost);
        }
        let resources = Resources {
            threads: 2.0,
            bytes_per_second: 1e6,
        };
        let mix = best_mix(&costs, resources);
        assert_eq!((mix.light, mix.heavy_share), (Codec::Raw, 0.0));
    }

    proptest! {
        #[test]
        fn no_single_codec_is_better_than_the_mix(
            costs in proptest::array::uniform4((0.0..1.2_f64, 1e-11..1e-7_f64)),
            threads in 0.1..64.0_f64,
            rate in 1e5..1e11_f64,
            queued in 0_u64..1 << 32,
        ) {
            let mut all = Costs::default();
            for (codec, (ratio, seconds_per_byte)) in Codec::ALL.into_iter().zip(costs) {
                all = all.with(codec, Cost { ratio, seconds_per_byte });
            }
            let resources = Resources { threads, bytes_per_second: rate };
            let raw = 1_u64 << 30;
            let mix = best_mix_ahead(&all, resources, raw, queued);
            for codec in Codec::ALL {
                let cost = all.of(codec);
                let alone = (float(raw) * cost.seconds_per_byte / threads)
                    .max((float(queued) + float(raw) * cost.ratio) / rate);
                prop_assert!(mix.seconds <= alone * (1.0 + 1e-6), "{mix:?} {codec:?} {alone}");
            }
        }
    }
}
