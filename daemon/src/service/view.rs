//! Workloads as the gRPC services show them.

use std::time::{Duration, SystemTime};

use lifeboat_format::manifest::TcpPolicy;
use lifeboat_plan::Codec;
use lifeboat_proto::v1;

use crate::{
    daemon::Context,
    pipeline::Snapshot,
    precopy::{FIXED_COST, Figures, time_to_safe},
    workload::{Phase, Saved, Workload, tree},
};

/// A workload as it is now.
#[must_use]
pub fn workload(context: &Context, workload: &Workload) -> v1::Workload {
    let view = workload.view();
    let runs = matches!(view.phase, Phase::Running | Phase::Saving | Phase::Loading);
    let memory_bytes = if runs {
        tree::resident_bytes(view.pid)
    } else {
        0
    };
    // Where memory is not copied ahead of time, all of it would have to be saved.
    let ahead = view.ahead.as_deref().filter(|_| runs);
    let known = ahead.filter(|ahead| ahead.figures.is_known);
    let unsaved_bytes = known.map_or(memory_bytes, |ahead| ahead.figures.unsaved_bytes());
    let time_to_safe = known
        .and_then(|ahead| time_to_safe(&ahead.figures))
        .map_or_else(|| by_last_save(context, unsaved_bytes), duration);
    v1::Workload {
        name: workload.name.to_string(),
        state: v1::WorkloadState::from(view.phase).into(),
        pid: view.pid,
        uid: workload.owner.uid,
        memory_bytes,
        unsaved_bytes,
        time_to_safe,
        last_checkpoint: view.last_checkpoint.as_ref().map(summary),
        argv: workload.spec.argv.clone(),
        held: workload.held,
        priority: workload.spec.priority,
        tcp: match workload.tcp {
            TcpPolicy::Close => v1::TcpPolicy::Close,
            TcpPolicy::Keep => v1::TcpPolicy::Keep,
        }
        .into(),
        epoch: view.epoch.0,
        registered_at: Some(workload.registered_at.into()),
        missing_bytes: view.missing_bytes,
        not_evacuable: ahead
            .and_then(|ahead| ahead.late.clone())
            .unwrap_or_default(),
        last_drill: view.last_drill.map(|drill| v1::LastDrill {
            ended_at: Some(drill.at.into()),
            total: duration(drill.total),
            margin: drill.margin_ms.map(milliseconds),
            error: drill.error.unwrap_or_default(),
        }),
        precopy: ahead.map(|ahead| precopy(&ahead.figures)),
        last_error: view.last_error,
    }
}

fn precopy(figures: &Figures) -> v1::Precopy {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    let rate = |rate: f64| rate.max(0.0) as u64;
    let (stored_bytes, live_bytes) = figures.stored_bytes;
    v1::Precopy {
        pending_bytes: figures.pending_bytes,
        left_bytes: figures.left_bytes,
        dirty_bytes_per_second: rate(figures.dirty_rate),
        saved_bytes_per_second: rate(figures.rate),
        stored_bytes,
        live_bytes,
        books_bytes: figures.heap_bytes,
        interval: duration(figures.cost.interval),
    }
}

/// How long `bytes` would take at the rate of the last save.
fn by_last_save(context: &Context, bytes: u64) -> Option<prost_types::Duration> {
    let rate = u64::try_from(context.metrics.upload_rate.get())
        .ok()
        .filter(|rate| *rate > 0)?;
    let moving = Duration::from_millis(bytes.saturating_mul(1000) / rate);
    duration(moving + FIXED_COST)
}

/// What was measured of the link, the processors and the codecs.
#[must_use]
pub fn rates(known: &Snapshot) -> v1::Rates {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    let rate = |rate: f64| rate.max(0.0) as u64;
    let codecs = Codec::ALL.into_iter().zip(known.measured);
    v1::Rates {
        link_bytes_per_second: known.link.map(|link| rate(link.bytes_per_second)),
        link_age: known.link.and_then(|link| duration(link.age)),
        link_bytes_per_second_min: known.link_at_least.map(rate),
        threads: known.threads,
        codecs: codecs
            .map(|(codec, measured)| {
                let cost = known.costs.of(codec);
                v1::CodecCost {
                    codec: codec.name().to_owned(),
                    ratio: cost.ratio,
                    bytes_per_second: rate(1.0 / cost.seconds_per_byte.max(1e-12)),
                    measured,
                }
            })
            .collect(),
    }
}

/// A checkpoint in short.
#[must_use]
pub fn summary(saved: &Saved) -> v1::CheckpointSummary {
    v1::CheckpointSummary {
        id: saved.id.to_string(),
        frozen_at: Some(saved.frozen_at.into()),
        memory_bytes: saved.memory_bytes,
        epoch: saved.epoch.0,
    }
}

/// A checkpoint in short, from its manifest.
#[must_use]
pub fn summary_of(manifest: &lifeboat_format::Manifest) -> v1::CheckpointSummary {
    let frozen_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(manifest.frozen_at_unix_ns);
    v1::CheckpointSummary {
        id: manifest.checkpoint.to_string(),
        frozen_at: Some(frozen_at.into()),
        memory_bytes: manifest.memory_bytes,
        epoch: manifest.epoch.0,
    }
}

/// Milliseconds for the wire, which may be negative.
#[must_use]
pub fn milliseconds(millis: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: millis / 1000,
        nanos: i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// A duration for the wire; `None` when it is too long for it.
#[must_use]
pub fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}
