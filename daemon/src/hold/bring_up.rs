//! Restore or start: what happens between a hold's presentation and its running workload.

use std::{
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_format::{
    HeadState, LatestManifest,
    manifest::{Stream, StreamPipe},
};
use lifeboat_proto::hold::{self, to_hold::Message};
use lifeboat_sys::pidfd::Pidfd;
use tokio::process::Command;

use crate::{
    claim::{Decision, Wish},
    daemon::Context,
    deadline::Deadline,
    evacuate::{Mode, Save, report::SaveReport},
    observe::{
        chain, failpoint,
        metrics::{RestoreLabels, Success},
    },
    restore::{self, Destination, load},
    service::hold::tree_of,
    workload::{Phase, SharedWorkload, namespaces::Namespaces, tree},
};

/// PID after which a workload's processes are numbered in a fresh PID namespace: restores find the
/// numbers below free for their own helpers.
const FIRST_PID: u32 = 1000;

/// Shortest interval of periodic checkpoints.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The workload's ends of a hold's pipes.
#[derive(Debug)]
pub struct Pipes(Vec<(Stream, OwnedFd)>);

impl Pipes {
    /// Pairs the descriptors of a presentation with what it says about them.
    ///
    /// # Errors
    /// When there are more or fewer descriptors than streams.
    pub fn pair(streams: &[StreamPipe], descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        if streams.len() != descriptors.len() {
            return Err(format!(
                "Register names {} streams and carries {} descriptors",
                streams.len(),
                descriptors.len()
            ));
        }
        Ok(Self(
            streams
                .iter()
                .map(|pipe| pipe.stream)
                .zip(descriptors)
                .collect(),
        ))
    }
}

/// Claims the workload and starts or restores it.
pub async fn bring_up(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    pid: u32,
    process: &Pidfd,
    pipes: Option<Pipes>,
) {
    let wish = Wish {
        owner: workload.instance.clone(),
        uid: workload.owner.uid,
        fresh: workload.spec.fresh,
        take_over: workload.spec.take_over,
    };
    let mut waiting = false;
    let claimed = context.heads.claim(&workload.name, &wish, |head| {
        if !std::mem::replace(&mut waiting, true) {
            let stage = format!(
                "waiting for node {} (epoch {}) to let go",
                head.node, head.epoch
            );
            let restoring = hold::Restoring {
                checkpoint: String::new(),
                stage,
            };
            // A line for people; the hold waits in any case.
            drop(workload.tell_hold_now(Message::Restoring(restoring), Vec::new()));
        }
    });
    let (right, decision) = match claimed.await {
        Ok(claimed) => claimed,
        Err(error) => return refuse(context, workload, chain(&error)).await,
    };
    let epoch = right.head.epoch;
    workload.publish("claimed", |view| view.epoch = epoch);
    *workload.right.lock().await = Some(right);
    match decision {
        Decision::Start { reason } => {
            start(&context.config.program, workload, process, pid, reason).await
        }
        Decision::Restore { latest } => {
            failpoint::reach("restore-claimed");
            let restored = restore_into(context, workload, pid, process, pipes, latest).await;
            if let Err(reason) = restored {
                let labels = RestoreLabels {
                    succeeded: Success::No,
                };
                context.metrics.restores.get_or_create(&labels).inc();
                load::settle(context, workload, HeadState::Evacuated).await;
                refuse(context, workload, reason).await;
            }
        }
    }
}

async fn refuse(context: &Arc<Context>, workload: &SharedWorkload, reason: String) {
    tracing::error!(workload = %workload.name, reason, "the workload is not brought up");
    workload.publish("not brought up", |view| {
        view.phase = Phase::Ended;
        view.last_error.clone_from(&reason);
    });
    context.registry.remove(workload);
    let failed = hold::Failed {
        reason,
        may_start: false,
    };
    workload
        .tell_hold(Message::Failed(failed), Vec::new())
        .await;
}

async fn start(
    program: &Path,
    workload: &SharedWorkload,
    process: &Pidfd,
    pid: u32,
    reason: &'static str,
) {
    if let Err(error) = number_from(program, process, pid).await {
        // Not fatal: a restore may find a number taken, and says so then.
        tracing::warn!(workload = %workload.name, error, "cannot set the first PID");
    }
    let message = Message::Start(hold::Start {
        reason: reason.to_owned(),
    });
    workload.tell_hold(message, Vec::new()).await;
}

/// Makes the hold's next child [`FIRST_PID`] + 1, if it is in a PID namespace of its own.
async fn number_from(program: &Path, process: &Pidfd, pid: u32) -> Result<(), String> {
    let namespaces = Namespaces::of(pid, process).map_err(|error| chain(&error))?;
    let criu = namespaces.for_criu().map_err(|error| chain(&error))?;
    let Some(pid_namespace) = criu.pid else {
        return Ok(());
    };
    let output = Command::new("nsenter")
        .arg(format!(
            "--pid={}",
            Namespaces::path(&pid_namespace).display()
        ))
        .arg("--")
        .arg(program)
        .args(["set-last-pid", &FIRST_PID.to_string()])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("start nsenter: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

async fn restore_into(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    pid: u32,
    process: &Pidfd,
    pipes: Option<Pipes>,
    latest: LatestManifest,
) -> Result<(), String> {
    let checkpoint = latest.checkpoint.to_string();
    let began = Instant::now();
    workload.publish(format!("restoring checkpoint {checkpoint}"), |view| {
        view.phase = Phase::Restoring;
    });
    let stage = "rebuilding the processes".to_owned();
    let restoring = hold::Restoring {
        checkpoint: checkpoint.clone(),
        stage,
    };
    workload
        .tell_hold(Message::Restoring(restoring), Vec::new())
        .await;
    let Some(Pipes(pipes)) = pipes else {
        return Err(format!(
            "checkpoint {checkpoint} cannot be restored into this hold: it has no PID namespace of \
             its own; was the daemon absent when it was started? Start it again"
        ));
    };
    let namespaces = Namespaces::of(pid, process).map_err(|error| chain(&error))?;
    let destination = Destination {
        hold_pid: pid,
        namespaces,
        pipes,
    };
    let running = restore::restore(context, workload, latest, destination)
        .await
        .map_err(|error| chain(&error))?;
    failpoint::reach("restore-resumed");
    let root_pid = running.restored.root_pid;
    let loading = !running.complete;
    let restored = hold::Restored {
        root_pid,
        checkpoint,
        pending_stdin: running.pending_stdin.clone().into(),
        loading,
    };
    workload
        .tell_hold(Message::Restored(restored), Vec::new())
        .await;
    context
        .metrics
        .restore
        .observe(began.elapsed().as_secs_f64());
    context
        .metrics
        .restores
        .get_or_create(&RestoreLabels {
            succeeded: Success::Yes,
        })
        .inc();
    let saved = running.saved.clone();
    workload.refresh(|view| view.last_checkpoint = Some(saved));
    let phase = Phase::Loading;
    let Some(tree_pid) = runs(context, workload, pid, root_pid, phase).await else {
        return Err("the restored tree ended at once".to_owned());
    };
    workload.exclusive().await.loading = Some(running.load.loading.clone());
    let (context, workload) = (Arc::clone(context), Arc::clone(workload));
    tokio::spawn(async move { load::load(&context, &workload, running.load, tree_pid).await });
    Ok(())
}

/// The workload's first process runs. Returns its PID in the daemon's PID namespace.
pub async fn runs(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    hold_pid: u32,
    root_pid: u32,
    phase: Phase,
) -> Option<u32> {
    let mut body = workload.exclusive().await;
    let pid = tree::child_by_inner_pid(hold_pid, root_pid);
    let Some(tree) = pid.and_then(|pid| tree_of(pid, root_pid)) else {
        tracing::warn!(workload = %workload.name, root_pid, "the first process is gone already");
        return None;
    };
    let pid = tree.pid;
    body.streams = workload.streams().to_vec();
    body.tree = Some(tree);
    workload.publish("runs", |view| {
        view.phase = phase;
        view.pid = pid;
    });
    drop(body);
    let every = Duration::from_millis(workload.spec.checkpoint_every_ms);
    if !every.is_zero() {
        let every = every.max(CHECKPOINT_INTERVAL_MIN);
        tokio::spawn(checkpoint_every(
            Arc::clone(context),
            Arc::clone(workload),
            every,
        ));
    }
    Some(pid)
}

/// Whether a workload that runs was evacuated by a daemon before this one; its hold is told.
pub async fn was_evacuated(context: &Arc<Context>, workload: &SharedWorkload) -> bool {
    context.outcomes.settled(&workload.instance).await;
    let Some(checkpoint) = context.outcomes.get(&workload.instance) else {
        return false;
    };
    workload.publish("evacuated before", |view| view.phase = Phase::Evacuated);
    let evacuated = hold::Evacuated { checkpoint };
    workload
        .tell_hold(Message::Evacuated(evacuated), Vec::new())
        .await;
    true
}

/// Takes a workload over that runs already: this daemon was started after it.
pub async fn adopt(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    hold_pid: u32,
    root_pid: u32,
) {
    if was_evacuated(context, workload).await {
        return;
    }
    runs(context, workload, hold_pid, root_pid, Phase::Running).await;
    match workload.obtain_right(&context.heads).await {
        Ok(_) => {
            workload
                .tell_hold(Message::Adopted(hold::Adopted {}), Vec::new())
                .await
        }
        Err(error) => {
            // It is tried again with each sign of life, and before a save.
            let reason = chain(&error);
            tracing::error!(workload = %workload.name, reason, "adopted without a claim");
            workload.refresh(|view| view.last_error.clone_from(&reason));
            let failed = hold::Failed {
                reason,
                may_start: true,
            };
            workload
                .tell_hold(Message::Failed(failed), Vec::new())
                .await;
        }
    }
}

/// Checkpoints at an interval, against machines that die without notice.
async fn checkpoint_every(context: Arc<Context>, workload: SharedWorkload, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        match workload.view().phase {
            Phase::Running => {}
            Phase::Evacuated | Phase::Ended => return,
            _ => continue,
        }
        let report = SaveReport::default();
        let save = Save {
            context: &context,
            workload: &workload,
            mode: Mode::Checkpoint,
            orders: Deadline::NONE.into(),
            cancel: tokio_util::sync::CancellationToken::new(),
            report: &report,
        };
        let result = save.run().await;
        crate::service::outcome::count(&context, Mode::Checkpoint, &report, &result);
    }
}
