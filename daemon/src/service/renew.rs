//! Signs of life: the heads of the workloads that run here are renewed, so that nobody takes them
//! over.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    daemon::Context,
    observe::chain,
    service::identity::Caller,
    workload::{Phase, SharedWorkload},
};

/// Renewals within one lease: two may be lost.
const RENEWALS_PER_LEASE: u32 = 3;

/// Renews until `drain` is cancelled.
pub async fn run(context: Arc<Context>, drain: CancellationToken) {
    let interval: Duration = context.config.lease / RENEWALS_PER_LEASE;
    loop {
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        for workload in context.registry.visible(&Caller::operator()) {
            let phase = workload.view().phase;
            if matches!(phase, Phase::Evacuated | Phase::Ended) {
                continue;
            }
            // Whoever has it is in touch with the store at this moment.
            let Ok(mut right) = workload.right.try_lock() else {
                continue;
            };
            let Some(right) = right.as_mut() else {
                if phase == Phase::Running {
                    tokio::spawn(claim_again(Arc::clone(&context), Arc::clone(&workload)));
                }
                continue;
            };
            match context.heads.renew(&workload.name, right).await {
                Ok(()) => {}
                Err(error) if error.is_lost() => {
                    let text = chain(&error);
                    tracing::error!(workload = %workload.name, error = text, "superseded");
                    workload.refresh(|view| view.last_error = text);
                }
                Err(error) if error.is_unknown() => {
                    // The write may have happened: what is in the store now is the truth.
                    if let Ok(Some(present)) = context.heads.read(&workload.name).await
                        && present.head.owner == right.head.owner
                    {
                        *right = present;
                    }
                }
                Err(error) => {
                    tracing::warn!(workload = %workload.name, error = chain(&error), "not renewed");
                }
            }
        }
    }
}

/// Claims a workload that runs here without a claim: the store was away when it was asked for.
async fn claim_again(context: Arc<Context>, workload: SharedWorkload) {
    match workload.obtain_right(&context.heads).await {
        Ok(right) => {
            tracing::info!(workload = %workload.name, epoch = %right.head.epoch, "claimed at last");
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(workload = %workload.name, error, "runs without a claim");
            workload.refresh(|view| view.last_error = error);
        }
    }
}
