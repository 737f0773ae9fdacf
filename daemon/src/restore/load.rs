//! After the tree runs: its memory is loaded, and the claim becomes final.

use std::{sync::Arc, time::Instant};

use lifeboat_format::{HeadState, Manifest};
use lifeboat_proto::hold::{self, to_hold::Message};

use crate::{
    daemon::Context,
    evacuate::base::Loading,
    observe::{chain, failpoint},
    reshare,
    workload::{Phase, Workload, tree},
};

/// A load that goes on.
#[derive(Debug)]
pub struct Load {
    /// What is loaded.
    pub loading: Loading,
    /// What a successor must know of it.
    pub journal: Arc<lifeboat_pages::Journal>,
    /// When the restore, or its takeover, began.
    pub began: Instant,
}

/// Waits until all memory of a restored workload is in, then makes the claim final. When it cannot
/// be had, kills the tree and gives the claim back.
pub async fn load(context: &Arc<Context>, workload: &Arc<Workload>, load: Load, pid: u32) {
    let Load {
        loading: Loading { server, manifest },
        journal,
        began,
    } = load;
    let follow = follow(Arc::clone(workload), Arc::clone(&server));
    let loaded = server.loaded().await;
    follow.abort();
    // A save that goes on keeps the load's state; when it has taken the tree away, that is that.
    let mut body = workload.exclusive().await;
    body.loading = None;
    if workload.view().phase != Phase::Loading {
        journal.remove();
        if let Ok(Err(alive)) = loaded.map(|_| server.abort()) {
            tracing::debug!(
                error = chain(&alive),
                "the processes of an ended load are not gone yet"
            );
        }
        return;
    }
    match loaded {
        Ok(report) => {
            tell(workload, &report, began);
            if let Some(warm) = &context.warm {
                warm.forget(&workload.name);
            }
            // The hold first: from here on the daemon's death does not matter to the tree.
            let told = workload.hold_has(Message::Loaded(hold::Loaded {}), Vec::new());
            let told = told.await;
            failpoint::reach("restore-loaded");
            settle(context, workload, HeadState::Running).await;
            if told {
                journal.remove();
            } else {
                // Its hold will come back, believing that something is missing.
                tracing::warn!(workload = %workload.name, "the hold has not heard that all is loaded");
            }
            server.finish();
            workload.publish("all memory is loaded", |view| {
                view.phase = Phase::Running;
                view.missing_bytes = 0;
            });
            if context.config.restore.reshare {
                // Nobody else traces the tree while the lock is held.
                share_again(manifest, pid).await;
            }
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
            journal.remove();
            settle(context, workload, HeadState::Evacuated).await;
            if let Err(alive) = server.abort() {
                tracing::error!(error = chain(&alive), "a process of a failed load lives");
            }
        }
    }
}

/// Has memory merged that processes shared before.
async fn share_again(manifest: Arc<Manifest>, pid: u32) {
    let advised = tokio::task::spawn_blocking(move || {
        let plan = reshare::plan(&manifest);
        drop(manifest);
        !plan.is_empty() && reshare::advise(pid, &plan)
    });
    if advised.await.unwrap_or(false) {
        tokio::spawn(reshare::merge());
    }
}

/// Says what a load was like.
fn tell(workload: &Workload, report: &lifeboat_pages::Report, began: Instant) {
    tracing::info!(
        workload = %workload.name,
        elapsed_ms = began.elapsed().as_millis(),
        demand_faults = report.progress.demand_faults,
        installed_bytes = report.progress.installed_bytes,
        demand_p99_us = report.demand_p99.as_micros(),
        "all memory is loaded"
    );
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
