//! Just before a freeze: what is pending is sent while the program still runs, as long as that makes
//! the freeze shorter and the time allows it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    SharedAhead,
    batch::{self, BatchError, Options},
    lock,
};
use crate::{daemon::Context, evacuate::Orders};

/// Most rounds before the freeze.
const ROUNDS_MAX: u32 = 6;

/// Less than this is left for the freeze, in bytes.
const ENOUGH_BYTES: u64 = 24 << 20;

/// Pages of one batch.
const BATCH_PAGES: u64 = 64 << 10;

/// Share of the time until the deadline that may be spent before the freeze, where nobody has reckoned
/// it.
const SHARE: u32 = 2;

/// Sends what is pending until a freeze has little left to do.
///
/// # Errors
/// When the store does not take it, or the books are worthless. The workload runs on.
pub async fn hurry(
    context: &Context,
    ahead: &SharedAhead,
    root_pid: u32,
    orders: &Orders,
) -> Result<(), BatchError> {
    let remaining = orders.deadline().remaining();
    let usual = remaining.map(|remaining| Instant::now() + remaining / SHARE);
    let is_late = |needed: Duration| {
        let end = orders.freeze_by().or(usual);
        end.is_some_and(|end| Instant::now() + needed > end)
    };
    let mut before = u64::MAX;
    lock(ahead).cool();
    lock(ahead).check_objects();
    for _ in 0..ROUNDS_MAX {
        look(ahead).await?;
        let figures = lock(ahead).figures();
        let pending = figures.pending_bytes + lock(ahead).unchecked_bytes();
        tracing::debug!(
            pending,
            left = figures.left_bytes,
            is_partial = figures.is_partial,
            round_ms = figures.round_took.as_millis(),
            "before the freeze"
        );
        if pending < ENOUGH_BYTES || pending > before / 10 * 9 {
            break;
        }
        before = pending;
        if is_late(needed(figures.pending_bytes, figures.rate)) {
            break;
        }
        let options = Options {
            pages: BATCH_PAGES,
            background: false,
            end: orders.deadline().instant(),
        };
        while batch::send(context, ahead, root_pid, options)
            .await?
            .is_some()
        {
            if is_late(Duration::ZERO) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A round, on a thread that may block.
pub(super) async fn look(ahead: &SharedAhead) -> Result<(), BatchError> {
    let ahead = Arc::clone(ahead);
    let round = tokio::task::spawn_blocking(move || lock(&ahead).round());
    match round.await {
        Ok(result) => result.map_err(BatchError::Ahead),
        Err(_) => Err(BatchError::Pipeline(
            crate::pipeline::PipelineError::Panic { stage: "track" },
        )),
    }
}

/// Time for so many bytes at the rate that was measured; none where nothing was.
pub(super) fn needed(bytes: u64, rate: f64) -> Duration {
    if rate <= 0.0 {
        return Duration::ZERO;
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = bytes as f64 / rate;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
}
