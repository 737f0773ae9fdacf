//! After the death of a daemon: what its journal says was frozen is killed or runs on.
//!
//! A tree whose commit had not been attempted was released by CRIU's hook when the daemon died. One
//! whose commit may have happened is still frozen: its head tells. The hook waits for the verdict.

use std::{sync::Arc, time::Duration};

use lifeboat_criu::{Pending, WorkDir};
use lifeboat_proto::id::{CheckpointId, WorkloadName};

use crate::{daemon::Context, journal::Recorded, observe::chain};

/// Time between attempts to read a head.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Finishes what the journal says. Entries are removed as they are settled.
pub fn recover(context: &Arc<Context>) {
    for recorded in context.journal.left_over() {
        let context = Arc::clone(context);
        tokio::spawn(async move { settle(&context, recorded).await });
    }
}

async fn settle(context: &Context, recorded: Recorded) {
    let entry = recorded.entry().clone();
    tracing::warn!(
        workload = entry.workload,
        checkpoint = entry.checkpoint,
        committing = entry.committing,
        "a save was under way when the daemon ended"
    );
    if entry.committing {
        let pending = match Pending::adopt(&WorkDir::same(entry.work_dir.clone())).await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "cannot adopt a frozen tree; it stays frozen"
                );
                return;
            }
        };
        let committed = committed(context, &entry.workload, &entry.checkpoint).await;
        if committed {
            context.outcomes.insert(&entry.instance, &entry.checkpoint);
        }
        if let Some(pending) = pending {
            let verdict = if committed {
                pending.release().await
            } else {
                pending.abort().await
            };
            if let Err(error) = verdict {
                tracing::error!(error = chain(&error), committed, "CRIU did not confirm");
            }
        }
        tracing::warn!(
            workload = entry.workload,
            committed,
            "the outcome of the save is known"
        );
    }
    context.put_away(&entry.work_dir, &entry.checkpoint);
    recorded.done();
}

/// Whether the checkpoint was committed; fences a commit off that has not happened. Does not return
/// before it is known: the tree stays frozen meanwhile.
async fn committed(context: &Context, workload: &str, checkpoint: &str) -> bool {
    let (Ok(name), Ok(checkpoint)) = (
        workload.parse::<WorkloadName>(),
        checkpoint.parse::<CheckpointId>(),
    ) else {
        return false;
    };
    loop {
        let outcome = match context.heads.read(&name).await {
            Ok(None) => Ok(false),
            Ok(Some(mut right)) => {
                let latest = right.head.latest.map(|latest| latest.checkpoint);
                if latest == Some(checkpoint) {
                    return true;
                }
                context.heads.settle(&name, &mut right, checkpoint).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(committed) => return committed,
            Err(error) if error.is_lost() => return false,
            Err(error) => {
                tracing::warn!(error = chain(&error), "outcome of a commit still unknown");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
