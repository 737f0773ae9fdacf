//! The work in the background: rounds and batches for as long as the workload runs here.

use std::{sync::Arc, time::Duration};

use lifeboat_format::keys;
use lifeboat_proto::id::PackId;
use lifeboat_store::{Call, Key};

use super::{
    Ahead, SharedAhead,
    ahead::{AheadError, Figures},
    batch::{self, BatchError},
    hurry::look,
    lock, pace,
};
use crate::{
    daemon::Context,
    observe::chain,
    workload::{AheadView, Phase, SharedWorkload},
};

/// Pages of one batch: what a save may have to wait for.
const BATCH_PAGES: u64 = 16 << 10;

/// Time until it is tried again after a failure; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Longest time until it is tried again.
const RETRY_LAST: Duration = Duration::from_secs(60);

/// Time between looks at a workload that does not run.
const IDLE: Duration = Duration::from_secs(1);

/// Longest time for deleting a pack.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps a workload evacuable until it ends or has left.
pub async fn follow(context: Arc<Context>, workload: SharedWorkload) {
    if !context.config.precopy.enabled || !workload.place.begin_to_follow() {
        return;
    }
    let mut view = workload.watch();
    let over = view.wait_for(|view| matches!(view.phase, Phase::Evacuated | Phase::Ended));
    tokio::select! {
        () = work(&context, &workload) => {}
        _ = over => {}
    }
    workload.refresh(|view| view.ahead = None);
    let mut books = workload.place.take().await;
    let left = books.ahead().map(|ahead| lock(ahead).leftovers());
    books.forget();
    drop(books);
    // While a machine is being left, there are others who need the link.
    if context.notice().is_none() {
        delete(&context, left.unwrap_or_default()).await;
    }
}

async fn work(context: &Context, workload: &SharedWorkload) {
    let mut failures = 0;
    loop {
        let changed = workload.place.changed.notified();
        let wait = match step(context, workload).await {
            Ok(wait) => {
                failures = 0;
                wait
            }
            Err(error) => {
                failures += 1;
                let wait = RETRY_FIRST
                    .saturating_mul(1 << failures.min(10))
                    .min(RETRY_LAST);
                tracing::warn!(
                    workload = %workload.name,
                    error = chain(&error),
                    again_after_s = wait.as_secs(),
                    "memory is not copied ahead of time"
                );
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed => {}
        }
    }
}

/// A round if one is due, and a batch if something is pending. Returns the time to rest.
async fn step(context: &Context, workload: &SharedWorkload) -> Result<Duration, BatchError> {
    let place = &workload.place;
    if place.is_wanted() || workload.view().phase != Phase::Running {
        return Ok(IDLE);
    }
    let mut books = place.ahead.lock().await;
    let Some((ahead, root_pid)) = open(&mut books, workload) else {
        return Ok(IDLE);
    };
    let result = work_once(context, workload, &ahead, root_pid).await;
    match &result {
        Err(BatchError::Ahead(error)) => {
            *books = None;
            workload.refresh(|view| view.ahead = None);
            if matches!(error, AheadError::Track(error) if error.is_gone()) {
                return Ok(IDLE);
            }
        }
        _ => show(context, workload, &ahead),
    }
    result
}

/// The books, begun if there are none.
fn open(books: &mut Option<SharedAhead>, workload: &SharedWorkload) -> Option<(SharedAhead, u32)> {
    let body = workload.try_exclusive()?;
    let tree = body.tree.as_ref()?;
    if body.loading.is_some() {
        return None;
    }
    if books.is_none() {
        let root = tree.root.try_clone().ok()?;
        let ahead = Ahead::new(root, workload.name.clone(), workload.view().epoch);
        *books = Some(Arc::new(std::sync::Mutex::new(ahead)));
    }
    Some((Arc::clone(books.as_ref()?), tree.pid))
}

async fn work_once(
    context: &Context,
    workload: &SharedWorkload,
    ahead: &SharedAhead,
    root_pid: u32,
) -> Result<Duration, BatchError> {
    let limits = &context.config.precopy;
    let is_hurried = workload.place.is_hurried();
    let target = limits.target.unwrap_or(context.config.notice / 3);
    let due = |figures: &Figures| {
        let interval = limits.until_next_round(figures, is_hurried, target);
        let since = figures.round_at.map(|at| at.elapsed());
        since.map_or(Duration::ZERO, |since| interval.saturating_sub(since))
    };
    let figures = lock(ahead).figures();
    if due(&figures).is_zero() {
        look(ahead).await?;
        let dead = lock(ahead).tidy();
        delete(context, dead).await;
    }
    let options = batch::Options {
        pages: BATCH_PAGES,
        background: !is_hurried,
        end: None,
    };
    let done = batch::send(context, ahead, root_pid, options).await?;
    let figures = lock(ahead).figures();
    Ok(match done {
        Some(_) if is_hurried => Duration::ZERO,
        Some(done) => limits.rest(done),
        None => due(&figures).max(Duration::from_millis(1)),
    })
}

/// Tells others how it stands.
fn show(context: &Context, workload: &SharedWorkload, ahead: &SharedAhead) {
    let books = lock(ahead);
    let figures = books.figures();
    let modes = books
        .modes()
        .map(|(pid, mode, why)| (pid, mode, why.map(str::to_owned)))
        .collect();
    drop(books);
    let late = figures
        .is_known
        .then(|| pace::verdict(&figures, context.config.notice))
        .flatten();
    let was_late = workload
        .view()
        .ahead
        .is_some_and(|view| view.late.is_some());
    let view = Arc::new(AheadView {
        figures,
        modes,
        late: late.clone(),
    });
    match (late, was_late) {
        (Some(why), false) => {
            tracing::warn!(workload = %workload.name, why, "not evacuable in time");
            workload.publish(why, |shown| shown.ahead = Some(view));
        }
        (None, true) => {
            workload.publish("can be evacuated in time", |shown| shown.ahead = Some(view));
        }
        _ => workload.refresh(|shown| shown.ahead = Some(view)),
    }
}

/// Deletes packs that nothing names. What is left of them is garbage for `lifeboat gc`.
async fn delete(context: &Context, dead: Vec<PackId>) {
    for id in dead {
        let Ok(key) = keys::pack(id).parse::<Key>() else {
            continue;
        };
        let call = Call::within(DELETE_PATIENCE);
        if let Err(error) = context.store.delete(&key, call).await {
            tracing::debug!(error = chain(&error), "a dead pack is left");
            return;
        }
    }
}
