//! After the death of a daemon: what its journal says was frozen is killed or runs on.
//!
//! A tree whose commit had not been attempted was released by CRIU's hook when the daemon died. One
//! whose commit may have happened is still frozen: its head tells. The hook waits for the verdict.
//!
//! A frozen tree whose workload somebody else has claimed meanwhile does not wake up again: it
//! would be a second one.

use std::{sync::Arc, time::Duration};

use lifeboat_criu::{Pending, WorkDir};
use lifeboat_proto::id::{CheckpointId, WorkloadName};

use crate::{
    claim::ClaimError,
    daemon::Context,
    journal::{Entry, Recorded},
    observe::chain,
};

/// Time between attempts to read a head.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What became of the commit of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It happened.
    Committed,
    /// It did not happen, and cannot happen any more.
    NotCommitted,
    /// Somebody else has claimed the workload, from this checkpoint or from another one.
    Superseded,
}

/// Finishes what the journal says. Entries are removed as they are settled.
pub fn recover(context: &Arc<Context>) {
    for recorded in context.journal.left_over() {
        let context = Arc::clone(context);
        let instance = recorded.entry().instance.clone();
        context.outcomes.open(&instance);
        tokio::spawn(async move {
            settle(&context, recorded).await;
            context.outcomes.close(&instance);
        });
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
    if entry.committing && !decide(context, &entry).await {
        return;
    }
    context.put_away(&entry.work_dir, &entry.checkpoint);
    recorded.done();
}

/// Finds out how the commit ended and tells CRIU's hook. `false`: it could not be told; the entry
/// stays.
async fn decide(context: &Context, entry: &Entry) -> bool {
    let pending = match Pending::adopt(&WorkDir::same(entry.work_dir.clone())).await {
        Ok(pending) => pending,
        Err(error) => {
            let error = chain(&error);
            tracing::error!(error, "cannot adopt a frozen tree; it stays frozen");
            return false;
        }
    };
    let outcome = outcome(context, entry).await;
    tracing::warn!(
        workload = entry.workload,
        ?outcome,
        "the outcome of the save is known"
    );
    let runs_on = outcome == Outcome::NotCommitted;
    if !runs_on {
        context.outcomes.insert(&entry.instance, &entry.checkpoint);
    }
    if let Some(pending) = pending {
        let told = if runs_on {
            pending.abort().await
        } else {
            pending.release().await
        };
        if let Err(error) = told {
            tracing::error!(error = chain(&error), ?outcome, "CRIU did not confirm");
        }
    }
    true
}

/// How the commit ended; fences it off if it has not happened. Does not return before it is known:
/// the tree stays frozen meanwhile.
async fn outcome(context: &Context, entry: &Entry) -> Outcome {
    let (Ok(name), Ok(checkpoint)) = (
        entry.workload.parse::<WorkloadName>(),
        entry.checkpoint.parse::<CheckpointId>(),
    ) else {
        return Outcome::NotCommitted;
    };
    loop {
        match look(context, &name, &entry.instance, checkpoint).await {
            Ok(outcome) => return outcome,
            Err(error) if error.is_lost() => return Outcome::Superseded,
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "outcome of a commit still unknown");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn look(
    context: &Context,
    name: &WorkloadName,
    instance: &str,
    checkpoint: CheckpointId,
) -> Result<Outcome, ClaimError> {
    let Some(mut right) = context.heads.read(name).await? else {
        return Ok(Outcome::NotCommitted);
    };
    let latest = right.head.latest.map(|latest| latest.checkpoint);
    if latest == Some(checkpoint) {
        return Ok(Outcome::Committed);
    }
    if right.head.owner != instance {
        // The head is another owner's now: it must not be touched, not even by a fence.
        return Ok(Outcome::Superseded);
    }
    let committed = context.heads.settle(name, &mut right, checkpoint).await?;
    Ok(if committed {
        Outcome::Committed
    } else {
        Outcome::NotCommitted
    })
}
