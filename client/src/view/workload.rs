//! Workloads.

use lifeboat_proto::v1::{
    Blocker, GetResponse, Precopy, Process, TcpPolicy, Workload, WorkloadState,
};
use serde::Serialize;

use super::{filled, milliseconds, timestamp};

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
    pub(crate) not_evacuable: Option<String>,
    pub(crate) precopy: Option<PrecopyView>,
    pub(crate) last_drill: Option<DrillView>,
}

/// How a rehearsal went.
#[derive(Debug, Serialize)]
pub(crate) struct DrillView {
    pub(crate) ended_at: Option<String>,
    pub(crate) total_ms: Option<i64>,
    pub(crate) margin_ms: Option<i64>,
    pub(crate) error: Option<String>,
}

/// How memory is copied ahead of time.
#[derive(Debug, Serialize)]
pub(crate) struct PrecopyView {
    pub(crate) pending_bytes: u64,
    pub(crate) left_bytes: u64,
    pub(crate) dirty_bytes_per_second: u64,
    pub(crate) saved_bytes_per_second: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) live_bytes: u64,
    pub(crate) books_bytes: u64,
    pub(crate) interval_ms: Option<i64>,
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
            not_evacuable: filled(workload.not_evacuable),
            precopy: workload.precopy.map(Into::into),
            last_drill: workload.last_drill.map(|drill| DrillView {
                ended_at: timestamp(drill.ended_at),
                total_ms: drill.total.as_ref().map(milliseconds),
                margin_ms: drill.margin.as_ref().map(milliseconds),
                error: filled(drill.error),
            }),
        }
    }
}

impl From<Precopy> for PrecopyView {
    fn from(precopy: Precopy) -> Self {
        Self {
            pending_bytes: precopy.pending_bytes,
            left_bytes: precopy.left_bytes,
            dirty_bytes_per_second: precopy.dirty_bytes_per_second,
            saved_bytes_per_second: precopy.saved_bytes_per_second,
            stored_bytes: precopy.stored_bytes,
            live_bytes: precopy.live_bytes,
            books_bytes: precopy.books_bytes,
            interval_ms: precopy.interval.as_ref().map(milliseconds),
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

const fn tcp(policy: TcpPolicy) -> &'static str {
    match policy {
        TcpPolicy::Unspecified | TcpPolicy::Close => "close",
        TcpPolicy::Keep => "keep",
    }
}
