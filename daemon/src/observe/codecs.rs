//! Figures of the link and the codecs for Prometheus, as they are when they are asked for.

use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_plan::Codec;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::pipeline::Rates;

/// Labels of codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodecLabels {
    /// Its name.
    pub codec: &'static str,
}

/// Labels of a figure that there is at most one of: it is absent while it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LinkLabels {
    /// `limit`: measured while uploads were what everything waited for; `least`: otherwise.
    pub known_as: &'static str,
}

/// What was measured, and what each codec was used for.
#[derive(Debug, Default)]
pub struct OfCodecs {
    frames: Family<CodecLabels, Counter>,
    raw: Family<CodecLabels, Counter>,
    stored: Family<CodecLabels, Counter>,
    ratio: Family<CodecLabels, Gauge<f64, AtomicU64>>,
    rate: Family<CodecLabels, Gauge<f64, AtomicU64>>,
    link: Family<LinkLabels, Gauge<f64, AtomicU64>>,
    threads: Gauge<f64, AtomicU64>,
}

impl OfCodecs {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Frames that were made, by the codec that they are stored with";
        registry.register("frames", help, self.frames.clone());
        let help = "Content of these frames";
        registry.register_with_unit("frames_raw", help, Unit::Bytes, self.raw.clone());
        let help = "What is stored of it";
        registry.register_with_unit("frames_stored", help, Unit::Bytes, self.stored.clone());
        let help = "Stored bytes for each byte of memory, where that was measured";
        registry.register("codec_ratio", help, self.ratio.clone());
        let help = "Bytes of memory that one thread encodes in a second, where that was measured";
        registry.register("codec_bytes_per_second", help, self.rate.clone());
        let help = "What the link to the store carries";
        registry.register("link_bytes_per_second", help, self.link.clone());
        let help = "Encoding threads; one that shares its processor counts for its part";
        registry.register("encode_threads", help, self.threads.clone());
    }

    /// Takes over what is known now.
    pub fn update(&self, rates: &Rates) {
        for one in rates.uses() {
            let labels = CodecLabels {
                codec: one.codec.name(),
            };
            let set = |family: &Family<CodecLabels, Counter>, to| {
                let counter = family.get_or_create(&labels);
                counter.inner().store(to, Ordering::Relaxed);
            };
            set(&self.frames, one.frames);
            set(&self.raw, one.raw_bytes);
            set(&self.stored, one.stored_bytes);
        }
        let known = rates.snapshot();
        self.threads.set(known.threads);
        let links = [
            ("limit", known.link.map(|link| link.bytes_per_second)),
            ("least", known.link_at_least),
        ];
        for (known_as, rate) in links {
            if let Some(rate) = rate {
                self.link.get_or_create(&LinkLabels { known_as }).set(rate);
            }
        }
        let codecs = Codec::ALL.into_iter().zip(known.measured);
        for (codec, _) in codecs.filter(|(_, measured)| *measured) {
            let labels = CodecLabels {
                codec: codec.name(),
            };
            let cost = known.costs.of(codec);
            self.ratio.get_or_create(&labels).set(cost.ratio);
            let rate = 1.0 / cost.seconds_per_byte.max(1e-12);
            self.rate.get_or_create(&labels).set(rate);
        }
    }
}
