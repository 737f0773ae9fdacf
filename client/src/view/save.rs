//! Outcomes of saving.

use lifeboat_proto::v1::{SaveOutcome, SaveResult};
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
    }
}
