//! Results as programs see them: the fields of `--output json`. Fields are added, never changed.

use std::time::{Duration, SystemTime};

use lifeboat_proto::v1::{
    Blocker, Capability, CapabilityState, CheckpointEntry, CheckpointSummary, GetResponse,
    GetStatusResponse, InspectResponse, NoticeKind, Process, SaveOutcome, SaveResult, TcpPolicy,
    Workload, WorkloadState,
};
use serde::Serialize;

/// A workload in a list.
#[derive(Debug, Serialize)]
pub(crate) struct WorkloadView {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) unsaved_bytes: u64,
    pub(crate) missing_bytes: u64,
    pub(crate) time_to_safe_ms: Option<i64>,
    pub(crate) last_checkpoint: Option<String>,
    pub(crate) last_checkpoint_at: Option<String>,
    pub(crate) argv: Vec<String>,
    pub(crate) held: bool,
    pub(crate) priority: i32,
    pub(crate) tcp: &'static str,
    pub(crate) epoch: u64,
    pub(crate) registered_at: Option<String>,
    pub(crate) last_error: Option<String>,
}

/// A workload in detail.
#[derive(Debug, Serialize)]
pub(crate) struct DetailView {
    #[serde(flatten)]
    pub(crate) workload: WorkloadView,
    pub(crate) blockers: Vec<BlockerView>,
    pub(crate) processes: Vec<ProcessView>,
}

/// Something in the way of a checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct BlockerView {
    pub(crate) kind: String,
    pub(crate) pid: u32,
    pub(crate) fatal: bool,
    pub(crate) detail: String,
}

/// A process of a workload.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessView {
    pub(crate) pid: u32,
    pub(crate) inner_pid: u32,
    pub(crate) name: String,
    pub(crate) threads: u32,
    pub(crate) resident_bytes: u64,
    pub(crate) tracking: String,
}

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

/// A checkpoint in a list.
#[derive(Debug, Serialize)]
pub(crate) struct CheckpointView {
    pub(crate) workload: String,
    pub(crate) checkpoint: String,
    pub(crate) frozen_at: Option<String>,
    pub(crate) memory_bytes: u64,
    pub(crate) epoch: u64,
    pub(crate) latest: bool,
}

/// What a checkpoint holds.
#[derive(Debug, Serialize)]
pub(crate) struct InspectView {
    pub(crate) workload: String,
    pub(crate) checkpoint: String,
    pub(crate) frozen_at: Option<String>,
    pub(crate) memory_bytes: u64,
    pub(crate) epoch: u64,
    pub(crate) argv: Vec<String>,
    pub(crate) uid: u32,
    pub(crate) node: String,
    pub(crate) architecture: String,
    pub(crate) criu_version: String,
    pub(crate) kernel_release: String,
    pub(crate) stored_bytes: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) file_bytes: u64,
    pub(crate) packs: Vec<SizedView>,
    pub(crate) address_spaces: Vec<AddressSpaceView>,
    pub(crate) image_files: Vec<SizedView>,
}

/// Something with a name and a size.
#[derive(Debug, Serialize)]
pub(crate) struct SizedView {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
}

/// Memory of one process.
#[derive(Debug, Serialize)]
pub(crate) struct AddressSpaceView {
    pub(crate) pid: u32,
    pub(crate) pages: u64,
    pub(crate) runs: u64,
}

/// The node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) store: String,
    pub(crate) criu_version: String,
    pub(crate) started_at: Option<String>,
    pub(crate) workloads: u32,
    pub(crate) upload_bytes_per_second: u64,
    pub(crate) notice: Option<NoticeView>,
}

/// A pending notice.
#[derive(Debug, Serialize)]
pub(crate) struct NoticeView {
    pub(crate) source: String,
    pub(crate) kind: &'static str,
    pub(crate) deadline: Option<String>,
}

/// A capability of the node.
#[derive(Debug, Serialize)]
pub(crate) struct CapabilityView {
    pub(crate) name: String,
    pub(crate) area: String,
    pub(crate) state: &'static str,
    pub(crate) found: String,
    pub(crate) remedy: Option<String>,
}

impl From<Workload> for WorkloadView {
    fn from(workload: Workload) -> Self {
        let last = workload.last_checkpoint.clone();
        Self {
            state: state(workload.state()),
            tcp: tcp(workload.tcp()),
            name: workload.name,
            pid: workload.pid,
            uid: workload.uid,
            memory_bytes: workload.memory_bytes,
            unsaved_bytes: workload.unsaved_bytes,
            missing_bytes: workload.missing_bytes,
            time_to_safe_ms: workload.time_to_safe.as_ref().map(milliseconds),
            last_checkpoint: last.as_ref().map(|last| last.id.clone()),
            last_checkpoint_at: last.and_then(|last| timestamp(last.frozen_at)),
            argv: workload.argv,
            held: workload.held,
            priority: workload.priority,
            epoch: workload.epoch,
            registered_at: timestamp(workload.registered_at),
            last_error: filled(workload.last_error),
        }
    }
}

impl DetailView {
    /// The view of an answer; `None` if it has no workload.
    pub(crate) fn of(response: GetResponse) -> Option<Self> {
        Some(Self {
            workload: response.workload?.into(),
            blockers: response.blockers.into_iter().map(Into::into).collect(),
            processes: response.processes.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<Blocker> for BlockerView {
    fn from(blocker: Blocker) -> Self {
        Self {
            kind: blocker.kind,
            pid: blocker.pid,
            fatal: blocker.fatal,
            detail: blocker.detail,
        }
    }
}

impl From<Process> for ProcessView {
    fn from(process: Process) -> Self {
        Self {
            pid: process.pid,
            inner_pid: process.inner_pid,
            name: process.name,
            threads: process.threads,
            resident_bytes: process.resident_bytes,
            tracking: process.tracking,
        }
    }
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

impl From<CheckpointEntry> for CheckpointView {
    fn from(entry: CheckpointEntry) -> Self {
        let checkpoint = entry.checkpoint.unwrap_or_default();
        Self {
            workload: entry.workload,
            checkpoint: checkpoint.id,
            frozen_at: timestamp(checkpoint.frozen_at),
            memory_bytes: checkpoint.memory_bytes,
            epoch: checkpoint.epoch,
            latest: entry.latest,
        }
    }
}

impl From<InspectResponse> for InspectView {
    fn from(response: InspectResponse) -> Self {
        let summary: CheckpointSummary = response.checkpoint.unwrap_or_default();
        let packs = response.packs.into_iter();
        let files = response.image_files.into_iter();
        let spaces = response.address_spaces.into_iter();
        Self {
            workload: response.workload,
            checkpoint: summary.id,
            frozen_at: timestamp(summary.frozen_at),
            memory_bytes: summary.memory_bytes,
            epoch: summary.epoch,
            argv: response.argv,
            uid: response.uid,
            node: response.node,
            architecture: response.architecture,
            criu_version: response.criu_version,
            kernel_release: response.kernel_release,
            stored_bytes: response.stored_bytes,
            raw_bytes: response.raw_bytes,
            frames: response.frames,
            file_bytes: response.file_bytes,
            packs: packs
                .map(|pack| SizedView {
                    name: pack.key,
                    size_bytes: pack.size_bytes,
                })
                .collect(),
            address_spaces: spaces
                .map(|space| AddressSpaceView {
                    pid: space.pid,
                    pages: space.pages,
                    runs: space.runs,
                })
                .collect(),
            image_files: files
                .map(|file| SizedView {
                    name: file.name,
                    size_bytes: file.size_bytes,
                })
                .collect(),
        }
    }
}

impl From<GetStatusResponse> for NodeView {
    fn from(status: GetStatusResponse) -> Self {
        let notice = status.notice.map(|notice| NoticeView {
            kind: notice_kind(notice.kind()),
            source: notice.source,
            deadline: timestamp(notice.deadline),
        });
        Self {
            node: status.node,
            version: status.version,
            store: status.store,
            criu_version: status.criu_version,
            started_at: timestamp(status.started_at),
            workloads: status.workloads,
            upload_bytes_per_second: status.upload_bytes_per_second,
            notice,
        }
    }
}

impl From<Capability> for CapabilityView {
    fn from(capability: Capability) -> Self {
        Self {
            state: capability_state(capability.state()),
            name: capability.name,
            area: capability.area,
            found: capability.found,
            remedy: filled(capability.remedy),
        }
    }
}

/// The word for a state.
const fn state(state: WorkloadState) -> &'static str {
    match state {
        WorkloadState::Unspecified => "unknown",
        WorkloadState::Starting => "starting",
        WorkloadState::Running => "running",
        WorkloadState::Saving => "saving",
        WorkloadState::Restoring => "restoring",
        WorkloadState::Loading => "loading",
        WorkloadState::Evacuated => "evacuated",
        WorkloadState::Ended => "ended",
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

const fn tcp(policy: TcpPolicy) -> &'static str {
    match policy {
        TcpPolicy::Unspecified | TcpPolicy::Close => "close",
        TcpPolicy::Keep => "keep",
    }
}

const fn notice_kind(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Unspecified => "unknown",
        NoticeKind::Early => "early",
        NoticeKind::Preemption => "preemption",
        NoticeKind::Maintenance => "maintenance",
    }
}

const fn capability_state(state: CapabilityState) -> &'static str {
    match state {
        CapabilityState::Unspecified => "unknown",
        CapabilityState::Ok => "ok",
        CapabilityState::Degraded => "degraded",
        CapabilityState::Missing => "missing",
    }
}

/// A text, unless it is empty.
fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A duration of the contract in whole milliseconds.
pub(crate) fn milliseconds(duration: &prost_types::Duration) -> i64 {
    duration
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(duration.nanos / 1_000_000))
}

/// A moment of the contract as RFC 3339 has it, in UTC; `None` if it is absent or out of range.
fn timestamp(moment: Option<prost_types::Timestamp>) -> Option<String> {
    let moment = SystemTime::try_from(moment?).ok()?;
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    // The formatter panics beyond the year 9999.
    let in_range = since < Duration::from_secs(253_402_300_800);
    in_range.then(|| humantime::format_rfc3339_seconds(moment).to_string())
}
