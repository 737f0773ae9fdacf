//! What is done about a notice: every workload that it is about is evacuated within the time that is
//! left. However often a notice changes, there is one answer to it at a time; when it changes after that,
//! what is still here is tried again.
//!
//! A notice that is withdrawn stops what can be stopped: saves that have not begun to commit are called
//! off, and their workloads run on. What was committed has left.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use lifeboat_watch::{Answered, Change, Notice, Scope};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    daemon::Context,
    deadline::Deadline,
    evacuate::{Mode, Save, report::SaveReport},
    observe::chain,
    service::{identity::Caller, outcome},
    workload::{Phase, Workload, tree},
};

/// Most workloads that are saved at one time: each has packs in flight of its own, and the memory of
/// the daemon is bounded.
const AT_ONCE: usize = 4;

/// Most attempts to save a workload at one notice.
const ATTEMPTS_MAX: u32 = 8;

/// Time from one attempt to the next.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(300);

/// Least time in which it is worth trying again.
const WORTH_TRYING: Duration = Duration::from_secs(1);

/// Acts on notices until the queue is closed.
pub(super) async fn run(
    mut changes: mpsc::Receiver<Change>,
    answered: watch::Sender<Answered>,
    context: Arc<Context>,
    drain: CancellationToken,
) {
    // By the number of the notice; there are never more than notices that stand.
    let mut answers: HashMap<u64, Answering> = HashMap::new();
    let mut early: HashMap<u64, Scope> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let change = tokio::select! {
            () = drain.cancelled() => break,
            change = changes.recv() => change,
        };
        let Some(change) = change else { break };
        context.note_notice(&change);
        log(&change);
        // A save makes haste by itself.
        let is_news = match &change {
            Change::Given(notice) if !notice.kind.ends_programs() => {
                early.insert(notice.number, notice.scope.clone()).is_none()
            }
            Change::Withdrawn(notice) => early.remove(&notice.number).is_some(),
            Change::Given(_) | Change::Changed(_) => false,
        };
        if is_news {
            hurry(&context, &early);
        }
        while tasks.try_join_next().is_some() {}
        match change {
            Change::Given(notice) | Change::Changed(notice) if notice.kind.ends_programs() => {
                let known = answers.get(&notice.number);
                if known.is_some_and(|known| !known.task.is_finished()) {
                    continue;
                }
                let cancel = drain.child_token();
                let (number, stop) = (notice.number, cancel.clone());
                let (context, answered) = (Arc::clone(&context), answered.clone());
                let task = tasks.spawn(async move {
                    let answer = evacuate(&context, &notice, &cancel).await;
                    // A pod that goes says nothing about the machine.
                    if notice.scope == Scope::Machine && !cancel.is_cancelled() {
                        answered.send_replace(answer);
                    }
                });
                answers.insert(number, Answering { stop, task });
            }
            Change::Given(_) | Change::Changed(_) => {}
            Change::Withdrawn(notice) => {
                if let Some(answering) = answers.remove(&notice.number) {
                    answering.stop.cancel();
                }
                if notice.scope == Scope::Machine {
                    answered.send_replace(Answered::default());
                }
            }
        }
    }
    // Called off by the drain; what commits is waited for.
    while tasks.join_next().await.is_some() {}
}

/// Has the memory of those whom an early signal is about copied ahead as fast as it goes, and that of all
/// others not.
fn hurry(context: &Context, early: &HashMap<u64, Scope>) {
    for workload in context.registry.visible(&Caller::operator()) {
        if early.values().any(|scope| is_about(scope, &workload)) {
            workload.place.hurry();
        } else {
            workload.place.relax();
        }
    }
}

/// The answer to a notice.
#[derive(Debug)]
struct Answering {
    stop: CancellationToken,
    task: AbortHandle,
}

fn log(change: &Change) {
    let (what, notice) = match change {
        Change::Given(notice) => ("given", notice),
        Change::Changed(notice) => ("changed", notice),
        Change::Withdrawn(notice) => ("withdrawn", notice),
    };
    tracing::warn!(
        what,
        number = notice.number,
        source = notice.source().name(),
        sources = notice.sources.len(),
        kind = ?notice.kind,
        confidence = ?notice.confidence,
        scope = ?notice.scope,
        remaining_ms = Deadline::at(notice.deadline).margin_ms(),
        "notice"
    );
}

async fn evacuate(context: &Arc<Context>, notice: &Notice, cancel: &CancellationToken) -> Answered {
    let deadline = Deadline::at(notice.deadline);
    let mut saves = JoinSet::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for workload in in_order(context, &notice.scope) {
        let (context, turns, cancel) = (Arc::clone(context), Arc::clone(&turns), cancel.clone());
        saves.spawn(async move {
            // They are handed out in the order in which they were asked for.
            let _turn = turns.acquire().await;
            save(context, workload, deadline, cancel).await
        });
        // So that this one has asked before the next one does.
        tokio::task::yield_now().await;
    }
    let mut answer = Answered {
        number: notice.number,
        ..Answered::default()
    };
    while let Some(done) = saves.join_next().await {
        answer.workloads += 1;
        answer.saved += usize::from(done.unwrap_or(false));
    }
    tracing::warn!(
        source = notice.source().name(),
        workloads = answer.workloads,
        saved = answer.saved,
        withdrawn = cancel.is_cancelled(),
        margin_ms = deadline.margin_ms(),
        "notice answered"
    );
    answer
}

/// The workloads that a notice is about: the more important ones first, among equals the one that is
/// safe the soonest, so that most of them are saved when not all can be.
fn in_order(context: &Context, scope: &Scope) -> Vec<Arc<Workload>> {
    let mut all: Vec<_> = context
        .registry
        .visible(&Caller::operator())
        .into_iter()
        .filter(|one| !matches!(one.view().phase, Phase::Evacuated | Phase::Ended))
        .filter(|one| is_about(scope, one))
        .map(|one| {
            let view = one.view();
            let unsaved = match &view.ahead {
                Some(ahead) if ahead.figures.is_known => ahead.figures.unsaved_bytes(),
                _ => tree::resident_bytes(view.pid),
            };
            ((Reverse(one.spec.priority), unsaved), one)
        })
        .collect();
    all.sort_by_key(|(order, _)| *order);
    all.into_iter().map(|(_, one)| one).collect()
}

/// Evacuates a workload; tells whether that was committed. What fails is tried again as long as there
/// is time: a store that was away for a moment must not cost a workload.
async fn save(
    context: Arc<Context>,
    workload: Arc<Workload>,
    deadline: Deadline,
    cancel: CancellationToken,
) -> bool {
    for attempt in 1..=ATTEMPTS_MAX {
        if save_once(&context, &workload, deadline, cancel.clone()).await {
            return true;
        }
        let is_over = matches!(workload.view().phase, Phase::Evacuated | Phase::Ended);
        let left = deadline.remaining();
        if is_over || cancel.is_cancelled() || left.is_some_and(|left| left < WORTH_TRYING) {
            break;
        }
        tracing::warn!(workload = %workload.name, attempt, "tried again");
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
    false
}

async fn save_once(
    context: &Arc<Context>,
    workload: &Arc<Workload>,
    deadline: Deadline,
    cancel: CancellationToken,
) -> bool {
    let report = SaveReport::default();
    let save = Save {
        context,
        workload,
        mode: Mode::Evacuate,
        orders: deadline.into(),
        cancel,
        report: &report,
    };
    let result = save.run().await;
    outcome::count(context, Mode::Evacuate, &report, &result);
    outcome::log(workload, Mode::Evacuate, deadline, &report, &result);
    result.map_err(|error| chain(&error)).is_ok()
}

/// Whether a notice about `scope` is about this workload.
fn is_about(scope: &Scope, workload: &Workload) -> bool {
    match scope {
        Scope::Machine => true,
        Scope::Pod { uid } => {
            let path = format!("/proc/{}/cgroup", workload.view().pid);
            std::fs::read_to_string(path).is_ok_and(|text| is_of_pod(&text, uid))
        }
    }
}

/// Whether a process with these control groups belongs to the pod. The drivers write the UID with
/// dashes (`cgroupfs`) or underscores (`systemd`).
fn is_of_pod(cgroups: &str, uid: &str) -> bool {
    let names = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    let mut parts = cgroups.split(['/', '\n', '.']);
    parts.any(|part| names.iter().any(|name| part.ends_with(name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_tell_the_pod() {
        let uid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
        let plain = format!("0::/kubepods/burstable/pod{uid}/abc\n");
        assert!(is_of_pod(&plain, uid));
        let systemd = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b4e28ba_\
                       2fa1_11d2_883f_0016d3cca427.slice/cri-containerd-abc.scope\n";
        assert!(is_of_pod(systemd, uid));
        assert!(!is_of_pod(&plain, "1b4e28ba-2fa1-11d2-883f-0016d3cca428"));
        assert!(!is_of_pod("0::/user.slice\n", uid));
    }
}
