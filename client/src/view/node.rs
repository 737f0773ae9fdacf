//! The node and what it can do.

use lifeboat_proto::v1::{
    Capability, CapabilityState, DrillSummary, GetStatusResponse, GiveNoticeResponse, NoticeKind,
    NoticeSource, Rates, WarmCheckpoint,
};
use serde::Serialize;

use super::{filled, milliseconds, timestamp};

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
    pub(crate) rates: RatesView,
    pub(crate) notice: Option<NoticeView>,
    pub(crate) notice_sources: Vec<NoticeSourceView>,
    pub(crate) drill: Option<DrillSummaryView>,
    pub(crate) warm: Vec<WarmView>,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RatesView {
    pub(crate) link_bytes_per_second: Option<u64>,
    pub(crate) link_age_ms: Option<i64>,
    pub(crate) link_bytes_per_second_min: Option<u64>,
    pub(crate) threads: f64,
    pub(crate) codecs: Vec<CodecCostView>,
}

/// What a codec costs and gains.
#[derive(Debug, Serialize)]
pub(crate) struct CodecCostView {
    pub(crate) codec: String,
    pub(crate) ratio: f64,
    pub(crate) bytes_per_second: u64,
    pub(crate) measured: bool,
}

/// Somebody who may say that this machine will go.
#[derive(Debug, Serialize)]
pub(crate) struct NoticeSourceView {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) works: bool,
    pub(crate) succeeded_at: Option<String>,
    pub(crate) failed_at: Option<String>,
    pub(crate) failure: Option<String>,
}

/// What the last rehearsals have shown.
#[derive(Debug, Serialize)]
pub(crate) struct DrillSummaryView {
    pub(crate) ended_at: Option<String>,
    pub(crate) rehearsed: u32,
    pub(crate) not_saved: Vec<String>,
    pub(crate) least_margin_ms: Option<i64>,
    pub(crate) least_margin_of: Option<String>,
}

/// A notice that was given.
#[derive(Debug, Serialize)]
pub(crate) struct GivenView {
    pub(crate) kind: Option<&'static str>,
    pub(crate) pod: Option<String>,
    pub(crate) within_ms: Option<i64>,
    pub(crate) withdrawn: bool,
}

impl GivenView {
    /// What was said, and how the daemon took it in.
    pub(crate) fn new(kind: NoticeKind, pod: Option<String>, taken: &GiveNoticeResponse) -> Self {
        let withdrawn = kind == NoticeKind::Unspecified;
        Self {
            kind: (!withdrawn).then(|| notice_kind(kind)),
            pod,
            within_ms: taken.within.as_ref().map(milliseconds),
            withdrawn,
        }
    }
}

/// A checkpoint that was prefetched.
#[derive(Debug, Serialize)]
pub(crate) struct WarmView {
    pub(crate) workload: String,
    pub(crate) checkpoint: String,
    pub(crate) warm_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// A pending notice.
#[derive(Debug, Serialize)]
pub(crate) struct NoticeView {
    pub(crate) source: String,
    pub(crate) kind: &'static str,
    pub(crate) deadline: Option<String>,
    pub(crate) sources: Vec<String>,
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

impl From<GetStatusResponse> for NodeView {
    fn from(status: GetStatusResponse) -> Self {
        let notice = status.notice.map(|notice| NoticeView {
            kind: notice_kind(notice.kind()),
            source: notice.source,
            deadline: timestamp(notice.deadline),
            sources: notice.sources,
        });
        Self {
            node: status.node,
            version: status.version,
            store: status.store,
            criu_version: status.criu_version,
            started_at: timestamp(status.started_at),
            workloads: status.workloads,
            upload_bytes_per_second: status.upload_bytes_per_second,
            rates: status.rates.map(RatesView::from).unwrap_or_default(),
            notice,
            notice_sources: status.notice_sources.into_iter().map(Into::into).collect(),
            drill: status.drill.map(Into::into),
            warm: status.warm.into_iter().map(WarmView::from).collect(),
        }
    }
}

impl From<Rates> for RatesView {
    fn from(rates: Rates) -> Self {
        let codecs = rates.codecs.into_iter().map(|one| CodecCostView {
            codec: one.codec,
            ratio: one.ratio,
            bytes_per_second: one.bytes_per_second,
            measured: one.measured,
        });
        Self {
            link_bytes_per_second: rates.link_bytes_per_second,
            link_age_ms: rates.link_age.as_ref().map(milliseconds),
            link_bytes_per_second_min: rates.link_bytes_per_second_min,
            threads: rates.threads,
            codecs: codecs.collect(),
        }
    }
}

impl From<NoticeSource> for NoticeSourceView {
    fn from(source: NoticeSource) -> Self {
        let moment = |at: Option<prost_types::Timestamp>| at.map(|at| (at.seconds, at.nanos));
        let (succeeded, failed) = (moment(source.succeeded_at), moment(source.failed_at));
        Self {
            works: succeeded.is_some() && succeeded >= failed,
            name: source.name,
            target: source.target,
            succeeded_at: timestamp(source.succeeded_at),
            failed_at: timestamp(source.failed_at),
            failure: filled(source.failure),
        }
    }
}

impl From<DrillSummary> for DrillSummaryView {
    fn from(drill: DrillSummary) -> Self {
        Self {
            ended_at: timestamp(drill.ended_at),
            rehearsed: drill.rehearsed,
            not_saved: drill.not_saved,
            least_margin_ms: drill.least_margin.as_ref().map(milliseconds),
            least_margin_of: filled(drill.least_margin_of),
        }
    }
}

impl From<WarmCheckpoint> for WarmView {
    fn from(warm: WarmCheckpoint) -> Self {
        Self {
            workload: warm.workload,
            checkpoint: warm.checkpoint,
            warm_bytes: warm.warm_bytes,
            total_bytes: warm.total_bytes,
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
