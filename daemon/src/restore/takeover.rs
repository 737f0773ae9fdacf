//! Going on with a load whose daemon has died.
//!
//! The hold has kept the userfaultfds, so that whoever misses a page waits. This daemon gets them,
//! reads its predecessor's journal, and serves what is missing. Where it cannot be proved what that
//! is, or the workload is somebody else's by now, the tree is killed; the checkpoint is intact.

use std::{os::fd::OwnedFd, sync::Arc, time::Instant};

use lifeboat_format::HeadState;
use lifeboat_pages::{Guarded, Options, PageServer, ResumeError};
use lifeboat_proto::hold::{self, to_hold::Message};
use tokio::runtime::Handle;

use super::{
    RestoreError,
    handover::{self, HandoverError},
    load, open, rebuild,
};
use crate::{
    claim::{ClaimError, Right},
    daemon::Context,
    evacuate::base::Loading,
    hold::{bring_up, guard::HoldGuard},
    observe::chain,
    workload::{Phase, SharedWorkload, tree},
};

/// Why a load was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The workload's head cannot be read.
    #[error("read the workload's head")]
    Head(#[source] ClaimError),
    /// Somebody else has the workload.
    #[error("the workload is not this hold's any more")]
    Lost,
    /// The journal cannot be relied on.
    #[error("take the load over")]
    Handover(#[source] HandoverError),
    /// The checkpoint cannot be read.
    #[error("read the checkpoint that is loaded")]
    Open(#[source] RestoreError),
    /// The hold does not guard what is loaded.
    #[error("have the hold guard what is loaded")]
    Guard(#[source] std::io::Error),
    /// What is missing cannot be served.
    #[error("serve what is missing")]
    Resume(#[source] ResumeError),
    /// The workload's first process is gone.
    #[error("the workload has ended")]
    Ended,
}

/// Takes over the load of a workload that runs, with the descriptors that its hold has kept.
pub async fn take_over(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    hold_pid: u32,
    root_pid: u32,
    kept: Vec<(Guarded, OwnedFd)>,
) {
    // A save that was going on when the predecessor died comes first.
    if bring_up::was_evacuated(context, workload).await {
        return;
    }
    workload.publish("taking the load over", |view| view.phase = Phase::Loading);
    let restoring = hold::Restoring {
        checkpoint: String::new(),
        stage: "taking the load over".to_owned(),
    };
    workload
        .tell_hold(Message::Restoring(restoring), Vec::new())
        .await;
    if let Err(error) = try_take_over(context, workload, hold_pid, root_pid, kept).await {
        give_up(context, workload, hold_pid, root_pid, &chain(&error)).await;
    }
}

async fn try_take_over(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    hold_pid: u32,
    root_pid: u32,
    kept: Vec<(Guarded, OwnedFd)>,
) -> Result<(), TakeoverError> {
    let began = Instant::now();
    let right = right(context, workload).await?;
    let epoch = right.head.epoch;
    *workload.right.lock().await = Some(right);
    workload.refresh(|view| view.epoch = epoch);
    let (journal, history, checkpoint) =
        handover::resume(workload).map_err(TakeoverError::Handover)?;
    let opened = open::open(context, workload, checkpoint, hold_pid)
        .await
        .map_err(TakeoverError::Open)?;
    let spaces = rebuild::spaces(&opened).map_err(TakeoverError::Open)?;
    let guard = HoldGuard::begin(workload, &journal, context.config.takeover_wait)
        .await
        .map_err(TakeoverError::Guard)?;
    let journal = Arc::new(journal);
    let options = Options::new(Handle::current())
        .guarded_by(guard)
        .journaled_in(Arc::clone(&journal));
    let source = Arc::clone(&opened.source);
    let server = PageServer::resume(source, spaces, options, &history, kept)
        .map_err(TakeoverError::Resume)?;
    let loading = Loading {
        server: Arc::new(server),
        manifest: opened.manifest,
    };
    let saved = rebuild::saved(&loading.manifest);
    workload.refresh(|view| view.last_checkpoint = Some(saved));
    let runs = bring_up::runs(context, workload, hold_pid, root_pid, Phase::Loading).await;
    let pid = runs.ok_or(TakeoverError::Ended)?;
    workload.exclusive().await.loading = Some(loading.clone());
    workload
        .tell_hold(Message::Adopted(hold::Adopted {}), Vec::new())
        .await;
    tracing::info!(
        workload = %workload.name,
        elapsed_ms = began.elapsed().as_millis(),
        missing_bytes = loading.server.progress().missing_bytes,
        "the load was taken over"
    );
    let (context, workload) = (Arc::clone(context), Arc::clone(workload));
    let load = load::Load {
        loading,
        journal,
        began,
    };
    tokio::spawn(async move { load::load(&context, &workload, load, pid).await });
    Ok(())
}

/// The right to the workload, if it is still its hold's.
async fn right(context: &Context, workload: &SharedWorkload) -> Result<Right, TakeoverError> {
    let present = context.heads.read(&workload.name).await;
    let present = present.map_err(TakeoverError::Head)?;
    present
        .filter(|right| right.head.owner == workload.instance)
        .ok_or(TakeoverError::Lost)
}

/// Ends a workload whose load cannot be taken over.
async fn give_up(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    hold_pid: u32,
    root_pid: u32,
    reason: &str,
) {
    if workload.view().phase == Phase::Ended {
        // It has ended by itself meanwhile.
        return;
    }
    tracing::error!(workload = %workload.name, error = reason, "the load cannot be taken over");
    workload.publish(
        "the load cannot be taken over; the tree is killed",
        |view| {
            view.phase = Phase::Ended;
            reason.clone_into(&mut view.last_error);
        },
    );
    let failed = hold::Failed {
        reason: reason.to_owned(),
        may_start: false,
    };
    workload
        .tell_hold(Message::Failed(failed), Vec::new())
        .await;
    if let Some(pid) = tree::child_by_inner_pid(hold_pid, root_pid) {
        tree::kill(pid);
    }
    load::settle(context, workload, HeadState::Evacuated).await;
    context.registry.remove(workload);
}
