//! Which codec the next frame takes.
//!
//! Each frame is decided anew from what is known at that moment: what is still to be read, what is
//! encoded and waits for the link already, what the link carries, and what each codec costs and gains
//! on this workload's memory (see [`super::Rates`]). Now and then a frame takes another codec, so that
//! its cost is known when it is needed.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use lifeboat_format::codec::{self, Effort};
use lifeboat_plan::{Codec, Cost, Costs, Dither, Resources, best_mix_ahead};

use super::{
    Figures, PipelineOptions, Purpose, Rates,
    rates::{Content, Frame},
};

/// What is still to be read is taken to be at least this much, in bytes: more may be announced.
const AHEAD_BYTES_MIN: u64 = 256 << 10;

/// The heaviest codec is left out for a frozen program with less memory than this to be read, in
/// bytes: the little that it gains is not worth that the program stands longer.
const FROZEN_BYTES: u64 = 256 << 20;

/// Time for a byte that no codec is chosen with, in seconds.
const NEVER: f64 = 1.0;

/// Chooses for all threads of a pipeline.
#[derive(Debug)]
pub(super) struct Chooser {
    forced: Option<Effort>,
    purpose: Purpose,
    threads: usize,
    rates: Arc<Rates>,
    content: Arc<Content>,
    figures: Arc<Figures>,
    dither: Mutex<Dither>,
}

/// Frames and bytes by codec.
#[derive(Debug, Default)]
pub struct CodecFigures([OfCodec; Codec::ALL.len()]);

#[derive(Debug, Default)]
struct OfCodec {
    frames: AtomicU64,
    raw_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

/// What one codec was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecUse {
    /// The codec.
    pub codec: Codec,
    /// Frames that are stored with it.
    pub frames: u64,
    /// Their content, in bytes.
    pub raw_bytes: u64,
    /// What is stored of them, in bytes.
    pub stored_bytes: u64,
}

impl Chooser {
    pub(super) fn new(options: &PipelineOptions, figures: Arc<Figures>) -> Self {
        Self {
            forced: options.effort,
            purpose: options.purpose,
            threads: options.threads,
            rates: Arc::clone(&options.rates),
            content: options.rates.open(&options.origin.workload),
            figures,
            dither: Mutex::default(),
        }
    }

    /// The effort for the next frame.
    pub(super) fn next(&self) -> Effort {
        if let Some(effort) = self.forced {
            return effort;
        }
        let is_background = self.purpose == Purpose::Ahead;
        let (threads, bytes_per_second) = self.rates.resources(self.threads, is_background);
        let resources = Resources {
            threads,
            bytes_per_second,
        };
        let raw = self.figures.waiting_bytes().max(AHEAD_BYTES_MIN);
        let known = *self.content.lock();
        let costs = self.bounded(known.costs(&self.rates.costs()), raw);
        let mix = best_mix_ahead(&costs, resources, raw, self.figures.queued_bytes());
        if let Some(codec) = known.explore(&mix.per_byte(raw), threads)
            && self.is_allowed(codec, raw)
        {
            return effort(codec);
        }
        let mut dither = self.dither.lock().unwrap_or_else(PoisonError::into_inner);
        let codec = dither.next(&mix);
        // Nobody waits for what is copied ahead: it may as well be small, for the store and for later.
        effort(if is_background {
            codec.max(Codec::Zstd1)
        } else {
            codec
        })
    }

    /// Notes that a frame was encoded.
    pub(super) fn note(&self, frame: &Frame) {
        let encoded = &self.figures.encoded_bytes;
        encoded.fetch_add(frame.stored_bytes, Ordering::Relaxed);
        let codecs = &self.figures.codecs;
        codecs.note(frame.stored_as, frame.raw_bytes, frame.stored_bytes);
        self.rates.note_frame(&self.content, frame);
    }

    pub(super) const fn is_background(&self) -> bool {
        matches!(self.purpose, Purpose::Ahead)
    }

    fn is_allowed(&self, codec: Codec, raw: u64) -> bool {
        codec != Codec::Zstd6 || self.purpose != Purpose::Frozen || raw >= FROZEN_BYTES
    }

    fn bounded(&self, costs: Costs, raw: u64) -> Costs {
        Codec::ALL.into_iter().fold(costs, |costs, codec| {
            if self.is_allowed(codec, raw) {
                return costs;
            }
            let never = Cost {
                seconds_per_byte: NEVER,
                ..costs.of(codec)
            };
            costs.with(codec, never)
        })
    }
}

impl Drop for Chooser {
    fn drop(&mut self) {
        self.rates.close();
    }
}

/// The work that a codec of the planner is.
const fn effort(codec: Codec) -> Effort {
    match codec {
        Codec::Raw => Effort::None,
        Codec::Lz4 => Effort::Fast,
        Codec::Zstd1 => Effort::Balanced,
        Codec::Zstd6 => Effort::Small,
    }
}

/// The planner's name for an effort.
pub(super) const fn asked(effort: Effort) -> Codec {
    match effort {
        Effort::None => Codec::Raw,
        Effort::Fast => Codec::Lz4,
        Effort::Balanced => Codec::Zstd1,
        Effort::Small => Codec::Zstd6,
    }
}

/// What a frame is stored with, if it was encoded with this effort: content that does not become
/// smaller is stored as it is.
pub(super) const fn stored_as(effort: Effort, codec: codec::Codec) -> Codec {
    match codec {
        codec::Codec::Raw => Codec::Raw,
        codec::Codec::Lz4 => Codec::Lz4,
        codec::Codec::Zstd => match effort {
            Effort::Small => Codec::Zstd6,
            Effort::None | Effort::Fast | Effort::Balanced => Codec::Zstd1,
        },
    }
}

impl CodecFigures {
    pub(super) fn note(&self, codec: Codec, raw_bytes: u64, stored_bytes: u64) {
        let of = &self.0[codec as usize];
        of.frames.fetch_add(1, Ordering::Relaxed);
        of.raw_bytes.fetch_add(raw_bytes, Ordering::Relaxed);
        of.stored_bytes.fetch_add(stored_bytes, Ordering::Relaxed);
    }

    /// Each codec that was used, the lightest first.
    #[must_use]
    pub fn uses(&self) -> Vec<CodecUse> {
        let uses = Codec::ALL.into_iter().zip(&self.0);
        uses.map(|(codec, of)| CodecUse {
            codec,
            frames: of.frames.load(Ordering::Relaxed),
            raw_bytes: of.raw_bytes.load(Ordering::Relaxed),
            stored_bytes: of.stored_bytes.load(Ordering::Relaxed),
        })
        .filter(|one| one.frames > 0)
        .collect()
    }
}
