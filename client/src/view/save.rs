//! Outcomes of saving.

use lifeboat_proto::v1::{CodecUse, SaveOutcome, SaveResult};
use serde::Serialize;

use super::{filled, milliseconds};

/// How saving one workload ended.
#[derive(Debug, Serialize)]
pub(crate) struct SaveView {
    pub(crate) workload: String,
    pub(crate) checkpoint: Option<String>,
    pub(crate) outcome: &'static str,
    pub(crate) error: Option<String>,
    pub(crate) freeze_ms: i64,
    pub(crate) total_ms: i64,
    pub(crate) margin_ms: Option<i64>,
    pub(crate) memory_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) uploaded_bytes: u64,
    pub(crate) stages: Vec<StageView>,
    pub(crate) codecs: Vec<CodecUseView>,
}

/// Frames that are stored with one codec.
#[derive(Debug, Serialize)]
pub(crate) struct CodecUseView {
    pub(crate) codec: String,
    pub(crate) frames: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
}

impl From<CodecUse> for CodecUseView {
    fn from(one: CodecUse) -> Self {
        Self {
            codec: one.codec,
            frames: one.frames,
            raw_bytes: one.raw_bytes,
            stored_bytes: one.stored_bytes,
        }
    }
}

/// When a stage of saving ended.
#[derive(Debug, Serialize)]
pub(crate) struct StageView {
    pub(crate) stage: String,
    pub(crate) ended_after_ms: i64,
}

impl From<SaveResult> for SaveView {
    fn from(result: SaveResult) -> Self {
        let stages = result.stages.into_iter().map(|stage| StageView {
            stage: stage.stage,
            ended_after_ms: stage.ended_after.as_ref().map_or(0, milliseconds),
        });
        Self {
            outcome: outcome(SaveOutcome::try_from(result.outcome).unwrap_or_default()),
            workload: result.workload,
            checkpoint: filled(result.checkpoint),
            error: filled(result.error),
            freeze_ms: result.freeze.as_ref().map_or(0, milliseconds),
            total_ms: result.total.as_ref().map_or(0, milliseconds),
            margin_ms: result.margin.as_ref().map(milliseconds),
            memory_bytes: result.memory_bytes,
            read_bytes: result.read_bytes,
            uploaded_bytes: result.uploaded_bytes,
            stages: stages.collect(),
            codecs: result.codecs.into_iter().map(Into::into).collect(),
        }
    }
}

/// The word for an outcome.
const fn outcome(outcome: SaveOutcome) -> &'static str {
    match outcome {
        SaveOutcome::Unspecified | SaveOutcome::Unknown => "unknown",
        SaveOutcome::Evacuated => "evacuated",
        SaveOutcome::Checkpointed => "checkpointed",
        SaveOutcome::FailedRunning => "failed-running",
        SaveOutcome::Rehearsed => "rehearsed",
        SaveOutcome::Skipped => "skipped",
        SaveOutcome::Gone => "gone",
        SaveOutcome::TakenOver => "taken-over",
    }
}
