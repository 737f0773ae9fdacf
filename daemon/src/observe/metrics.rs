//! Figures for Prometheus. Names say stage, thing and unit; labels are bounded.

use std::{sync::atomic::AtomicU64, time::UNIX_EPOCH};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::codecs::OfCodecs;
use crate::workload::Drilled;

/// How a save ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Committed, and ended here.
    Evacuated,
    /// Committed; runs on.
    Checkpointed,
    /// Rehearsed; runs on.
    Rehearsed,
    /// Not committed; runs on.
    Failed,
}

/// Labels of saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SaveLabels {
    /// How it ended.
    pub outcome: Outcome,
}

/// Labels of restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RestoreLabels {
    /// Whether it succeeded.
    pub succeeded: Success,
}

/// Whether something succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Success {
    /// It did.
    Yes,
    /// It did not.
    No,
}

/// Labels of figures of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkloadLabels {
    /// Its name.
    pub workload: String,
}

/// Figures of each workload, as they are when they are asked for.
#[derive(Debug, Default)]
pub struct OfWorkloads {
    /// What would have to be saved if the notice came now, in bytes.
    pub unsaved: Family<WorkloadLabels, Gauge>,
    /// How long that would take, in seconds.
    pub time_to_safe: Family<WorkloadLabels, Gauge<f64, AtomicU64>>,
    /// Whether it could not be evacuated in time.
    pub not_evacuable: Family<WorkloadLabels, Gauge>,
    /// Stored for it, in bytes.
    pub stored: Family<WorkloadLabels, Gauge>,
    /// Time that its last rehearsal left until the deadline, in seconds.
    pub drill_margin: Family<WorkloadLabels, Gauge<f64, AtomicU64>>,
    /// Whether it would not have been saved.
    pub drill_failed: Family<WorkloadLabels, Gauge>,
    /// When that was, in seconds since 1970.
    pub drill_at: Family<WorkloadLabels, Gauge<f64, AtomicU64>>,
}

impl OfWorkloads {
    /// Forgets all workloads.
    pub fn clear(&self) {
        self.unsaved.clear();
        self.time_to_safe.clear();
        self.not_evacuable.clear();
        self.stored.clear();
        self.drill_margin.clear();
        self.drill_failed.clear();
        self.drill_at.clear();
    }

    /// Enters the last rehearsal of a workload.
    pub fn rehearsed(&self, labels: &WorkloadLabels, drill: &Drilled) {
        let failed = self.drill_failed.get_or_create(labels);
        failed.set(i64::from(drill.error.is_some()));
        if let Ok(since) = drill.at.duration_since(UNIX_EPOCH) {
            let at = self.drill_at.get_or_create(labels);
            at.set(since.as_secs_f64());
        }
        // Where nothing would have been saved, no time would have been left.
        let margin = drill.margin_ms.filter(|_| drill.error.is_none());
        if let Some(margin) = margin {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
            let seconds = margin as f64 / 1000.0;
            self.drill_margin.get_or_create(labels).set(seconds);
        }
    }

    fn register(&self, registry: &mut Registry) {
        let help = "What would have to be saved if the notice came now";
        let bytes = Unit::Bytes;
        let unsaved = self.unsaved.clone();
        registry.register_with_unit("workload_unsaved", help, bytes.clone(), unsaved);
        let help = "From a notice to the commit, if it came now";
        let time = self.time_to_safe.clone();
        registry.register_with_unit("workload_time_to_safe", help, Unit::Seconds, time);
        let help = "1 for a workload that could not be evacuated within the time of a notice";
        registry.register("workload_not_evacuable", help, self.not_evacuable.clone());
        let help = "Packs that were copied ahead of time and are still of use";
        let stored = self.stored.clone();
        registry.register_with_unit("workload_stored", help, bytes, stored);
        let help = "Time that the last drill left until its deadline";
        let margin = self.drill_margin.clone();
        registry.register_with_unit("workload_drill_margin", help, Unit::Seconds, margin);
        let help = "1 for a workload that would not have been saved in the last drill";
        registry.register("workload_drill_failed", help, self.drill_failed.clone());
        let help = "When the last drill ended, since 1970";
        let at = self.drill_at.clone();
        registry.register_with_unit("workload_drill_timestamp", help, Unit::Seconds, at);
    }
}

/// Labels of notices.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NoticeLabels {
    /// Who gave it.
    pub source: &'static str,
}

/// All figures.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Workloads under the daemon's care.
    pub workloads: Gauge,
    /// Saves by outcome.
    pub saves: Family<SaveLabels, Counter>,
    /// How long workloads were frozen.
    pub freeze: Histogram,
    /// From the call to the acknowledged commit.
    pub save: Histogram,
    /// Bytes uploaded.
    pub uploaded: Counter,
    /// Bytes of memory read.
    pub read: Counter,
    /// Restores.
    pub restores: Family<RestoreLabels, Counter>,
    /// From the hold's request to the running tree.
    pub restore: Histogram,
    /// Measured rate of the last upload.
    pub upload_rate: Gauge,
    /// Figures of the link and the codecs.
    pub of_codecs: OfCodecs,
    /// Figures of each workload.
    pub of_workloads: OfWorkloads,
    /// From an event to its notice, where the source tells when it began.
    pub notice_detection: Family<NoticeLabels, Histogram, fn() -> Histogram>,
}

/// A millisecond to a minute.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lifeboat");
        let histogram = buckets;
        let metrics = Self {
            workloads: Gauge::default(),
            saves: Family::default(),
            freeze: histogram(),
            save: histogram(),
            uploaded: Counter::default(),
            read: Counter::default(),
            restores: Family::default(),
            restore: histogram(),
            upload_rate: Gauge::default(),
            of_codecs: OfCodecs::default(),
            of_workloads: OfWorkloads::default(),
            notice_detection: Family::new_with_constructor(buckets),
            registry: Registry::default(),
        };
        registry.register(
            "workloads",
            "Workloads under care",
            metrics.workloads.clone(),
        );
        registry.register("saves", "Saves by outcome", metrics.saves.clone());
        let (unit, bytes) = (Unit::Seconds, Unit::Bytes);
        let help = "From the first process stopped to the last byte read";
        registry.register_with_unit("save_freeze", help, unit.clone(), metrics.freeze.clone());
        let help = "From the call to the acknowledged commit";
        registry.register_with_unit("save_total", help, unit.clone(), metrics.save.clone());
        let help = "Bytes of packs acknowledged by the store";
        registry.register_with_unit("upload", help, bytes.clone(), metrics.uploaded.clone());
        let help = "Bytes read from the memory of frozen workloads";
        registry.register_with_unit("save_read", help, bytes, metrics.read.clone());
        registry.register("restores", "Restores by success", metrics.restores.clone());
        let help = "From an event to its notice, where the source tells when it began";
        let detection = metrics.notice_detection.clone();
        registry.register_with_unit("notice_detection", help, unit.clone(), detection);
        let help = "From the hold's request to the running tree";
        registry.register_with_unit("restore", help, unit, metrics.restore.clone());
        let help = "Measured rate of the last upload, in bytes per second";
        registry.register(
            "upload_rate_bytes_per_second",
            help,
            metrics.upload_rate.clone(),
        );
        metrics.of_workloads.register(&mut registry);
        metrics.of_codecs.register(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// All figures in the text format of OpenMetrics.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            "# the figures could not be written\n".clone_into(&mut text);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_carry_their_unit() {
        let metrics = Metrics::default();
        metrics.freeze.observe(0.03);
        metrics
            .saves
            .get_or_create(&SaveLabels {
                outcome: Outcome::Evacuated,
            })
            .inc();
        let text = metrics.text();
        assert!(
            text.contains("lifeboat_save_freeze_seconds_count 1"),
            "{text}"
        );
        assert!(
            text.contains("lifeboat_saves_total{outcome=\"Evacuated\"} 1"),
            "{text}"
        );
    }
}
