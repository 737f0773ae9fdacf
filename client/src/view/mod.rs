//! Results as programs see them: the fields of `--output json`. Fields are added, never changed.

mod checkpoint;
mod node;
mod save;
mod workload;

use std::time::{Duration, SystemTime};

pub(crate) use self::{
    checkpoint::{CheckpointView, InspectView, SizedView},
    node::{CapabilityView, DrillSummaryView, GivenView, NodeView, NoticeSourceView, RatesView},
    save::SaveView,
    workload::{DetailView, WorkloadView},
};

/// A text, unless it is empty.
fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// A duration of the contract in whole milliseconds.
fn milliseconds(duration: &prost_types::Duration) -> i64 {
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
