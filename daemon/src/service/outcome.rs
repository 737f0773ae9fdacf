//! The outcome of a save, for callers and for the metrics.

use std::{
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use lifeboat_proto::{id::CheckpointId, v1};

use super::view;
use crate::{
    daemon::Context,
    deadline::Deadline,
    evacuate::{Mode, SaveError, report::SaveReport},
    observe::{
        chain,
        metrics::{Outcome, SaveLabels},
    },
    pipeline::CodecUse,
    workload::Workload,
};

/// The message that tells how a save ended.
#[must_use]
pub fn message(
    workload: &Workload,
    mode: Mode,
    deadline: Deadline,
    report: &SaveReport,
    result: &Result<CheckpointId, SaveError>,
) -> v1::SaveResult {
    let outcome = match (result, mode) {
        (Ok(_), Mode::Evacuate) => v1::SaveOutcome::Evacuated,
        (Ok(_), Mode::Checkpoint) => v1::SaveOutcome::Checkpointed,
        (Ok(_), Mode::Drill) => v1::SaveOutcome::Rehearsed,
        (Err(SaveError::Ended), _) => v1::SaveOutcome::Gone,
        (Err(error), _) if error.is_superseded() => v1::SaveOutcome::TakenOver,
        (Err(_), _) => v1::SaveOutcome::FailedRunning,
    };
    let stages = report.stages().into_iter().map(|stage| v1::StageTime {
        stage: stage.name.to_owned(),
        ended_after: view::duration(stage.ended_after),
    });
    v1::SaveResult {
        workload: workload.name.to_string(),
        checkpoint: match (result, mode) {
            (Ok(id), Mode::Evacuate | Mode::Checkpoint) => id.to_string(),
            _ => String::new(),
        },
        outcome: outcome.into(),
        error: result
            .as_ref()
            .err()
            .map(|error| chain(error))
            .unwrap_or_default(),
        freeze: report.freeze().and_then(view::duration),
        total: view::duration(committed_after(report)),
        memory_bytes: report.memory_bytes.load(Ordering::Relaxed),
        read_bytes: report.read_bytes(),
        uploaded_bytes: report.uploaded_bytes(),
        stages: stages.collect(),
        margin: margin(deadline),
        codecs: report.codecs().iter().map(codec_use).collect(),
    }
}

fn codec_use(one: &CodecUse) -> v1::CodecUse {
    v1::CodecUse {
        codec: one.codec.name().to_owned(),
        frames: one.frames,
        raw_bytes: one.raw_bytes,
        stored_bytes: one.stored_bytes,
    }
}

/// Closes a save in the log, with all its figures.
pub fn log(
    workload: &Workload,
    mode: Mode,
    deadline: Deadline,
    report: &SaveReport,
    result: &Result<CheckpointId, SaveError>,
) {
    let stages: Vec<String> = report
        .stages()
        .iter()
        .map(|stage| format!("{}={}", stage.name, stage.ended_after.as_millis()))
        .collect();
    let codecs: Vec<String> = report
        .codecs()
        .iter()
        .map(|one| format!("{}={}", one.codec.name(), one.frames))
        .collect();
    tracing::info!(
        workload = %workload.name,
        ?mode,
        committed = result.is_ok(),
        // Milliseconds from the call to the end of each stage, for timelines.
        stages = stages.join(" "),
        frozen_after_ms = report.frozen_after().as_millis(),
        frozen_at_unix_us = frozen_at_unix_us(report),
        checkpoint = result.as_ref().map(ToString::to_string).unwrap_or_default(),
        freeze_ms = report.freeze().map_or(0, |freeze| freeze.as_millis()),
        total_ms = report.elapsed().as_millis(),
        memory_bytes = report.memory_bytes.load(Ordering::Relaxed),
        read_bytes = report.read_bytes(),
        uploaded_bytes = report.uploaded_bytes(),
        codecs = codecs.join(" "),
        margin_ms = deadline.margin_ms(),
        "save ended"
    );
}

/// When the workload was frozen, in microseconds since 1970; zero if it was not.
fn frozen_at_unix_us(report: &SaveReport) -> u64 {
    if report.frozen_after().is_zero() {
        return 0;
    }
    let since = report.frozen_at().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Enters a save into the metrics.
pub fn count(
    context: &Context,
    mode: Mode,
    report: &SaveReport,
    result: &Result<CheckpointId, SaveError>,
) {
    let metrics = &context.metrics;
    let outcome = match (result, mode) {
        (Ok(_), Mode::Evacuate) => Outcome::Evacuated,
        (Ok(_), Mode::Checkpoint) => Outcome::Checkpointed,
        (Ok(_), Mode::Drill) => Outcome::Rehearsed,
        (Err(_), _) => Outcome::Failed,
    };
    metrics.saves.get_or_create(&SaveLabels { outcome }).inc();
    metrics.uploaded.inc_by(report.uploaded_bytes());
    metrics.read.inc_by(report.read_bytes());
    if let Some(freeze) = report.freeze() {
        metrics.freeze.observe(freeze.as_secs_f64());
    }
    if result.is_ok() {
        let total = committed_after(report);
        metrics.save.observe(total.as_secs_f64());
        let micros = u64::try_from(total.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = report.uploaded_bytes().saturating_mul(1_000_000) / micros;
        metrics
            .upload_rate
            .set(i64::try_from(rate).unwrap_or(i64::MAX));
    }
}

/// From the call to the commit, or until now if there was none.
fn committed_after(report: &SaveReport) -> Duration {
    let stages = report.stages();
    let commit = stages.iter().find(|stage| stage.name == "commit");
    commit.map_or_else(|| report.elapsed(), |stage| stage.ended_after)
}

fn margin(deadline: Deadline) -> Option<prost_types::Duration> {
    deadline.margin_ms().map(view::milliseconds)
}
