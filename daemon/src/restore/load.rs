//! After the tree runs: its memory is loaded, and the claim becomes final.

use std::sync::Arc;

use lifeboat_format::HeadState;
use lifeboat_proto::hold::{self, to_hold::Message};

use super::Running;
use crate::{
    daemon::Context,
    observe::{chain, failpoint},
    workload::{Phase, Workload, tree},
};

/// Waits until all memory of a restored workload is in, then makes the claim final. When it cannot
/// be had, kills the tree and gives the claim back.
pub async fn load(context: &Arc<Context>, workload: &Arc<Workload>, running: Running, pid: u32) {
    let follow = follow(Arc::clone(workload), Arc::clone(&running.server));
    let loaded = running.server.loaded().await;
    follow.abort();
    // A save that goes on keeps the load's state; when it has taken the tree away, that is that.
    let mut body = workload.exclusive().await;
    body.loading = None;
    drop(running.manifest);
    if workload.view().phase != Phase::Loading {
        if let Ok(Err(alive)) = loaded.map(|_| running.server.abort()) {
            tracing::debug!(
                error = chain(&alive),
                "the processes of an ended load are not gone yet"
            );
        }
        return;
    }
    match loaded {
        Ok(report) => {
            tracing::info!(
                workload = %workload.name,
                elapsed_ms = running.began.elapsed().as_millis(),
                demand_faults = report.progress.demand_faults,
                installed_bytes = report.progress.installed_bytes,
                demand_p99_us = report.demand_p99.as_micros(),
                "all memory is loaded"
            );
            // The hold first: from here on the daemon's death does not matter to the tree.
            workload
                .tell_hold(Message::Loaded(hold::Loaded {}), Vec::new())
                .await;
            failpoint::reach("restore-loaded");
            settle(context, workload, HeadState::Running).await;
            if let Some(server) = Arc::into_inner(running.server) {
                server.finish();
            }
            workload.publish("all memory is loaded", |view| {
                view.phase = Phase::Running;
                view.missing_bytes = 0;
            });
        }
        Err(error) => {
            let reason = chain(&error);
            tracing::error!(workload = %workload.name, error = reason, "the load failed");
            // First of all: the end that follows must not be taken for the workload's own, neither
            // here nor by the hold. The checkpoint would count as done with.
            workload.publish("the load failed; the tree is killed", |view| {
                view.phase = Phase::Ended;
                view.last_error.clone_from(&reason);
            });
            let failed = hold::Failed {
                reason,
                may_start: false,
            };
            workload
                .tell_hold(Message::Failed(failed), Vec::new())
                .await;
            tree::kill(pid);
            settle(context, workload, HeadState::Evacuated).await;
            if let Err(alive) = running.server.abort() {
                tracing::error!(error = chain(&alive), "a process of a failed load lives");
            }
        }
    }
}

/// Changes the state of the head, keeping the checkpoint.
pub async fn settle(context: &Context, workload: &Workload, state: HeadState) {
    let mut right = workload.right.lock().await;
    let Some(right) = right.as_mut() else { return };
    let latest = right.head.latest;
    if let Err(error) = context
        .heads
        .change(&workload.name, right, state, latest)
        .await
    {
        tracing::error!(workload = %workload.name, error = chain(&error), "cannot change the head");
    }
}

/// Shows how much is still missing.
fn follow(
    workload: Arc<Workload>,
    server: Arc<lifeboat_pages::PageServer>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let missing = server.progress().missing_bytes;
            workload.refresh(|view| view.missing_bytes = missing);
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    })
}
