//! The daemon's side of the conversation with holds.
//!
//! A hold that connects either wants namespaces (the front half) or presents itself (the init half).
//! The init half stays connected for as long as its workload lives; when the daemon restarts, it
//! comes back with the same identity, and the workload is adopted as it is.
//!
//! Nothing that a hold says about *who* it is counts: its user and its process are the kernel's
//! word. A hold that dies takes its workload with it; the last checkpoint stays.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_format::HeadState;
use lifeboat_pages::Guarded;
use lifeboat_proto::hold::{
    self, Exited, Register, Spawn, ToDaemon, ToHold, to_daemon, to_hold::Message,
};
use lifeboat_sys::{peer::Peer, pidfd::Pidfd};
use rustix::process::Pid;
use tokio::sync::mpsc;

use super::identity::Caller;
use crate::{
    daemon::Context,
    evacuate::commit::stored_streams,
    hold::{
        bring_up::{self, Pipes},
        spawn::{self, HoldDescriptors},
        wire::{HoldConnection, WireError},
    },
    observe::chain,
    precopy,
    restore::{load, takeover},
    workload::{Phase, SharedWorkload, Tree, Workload, namespaces::Namespaces, tree},
};

/// Longest time that a hold may take to say what it wants.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most descriptors that a hold has kept; it keeps fewer itself.
const KEPT_MAX: usize = 1024;

/// Messages of a hold waiting to be handled.
const INBOX: usize = 16;

/// How long the daemon waits after a lost connection to see whether the hold has died.
const DEATH_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between looks at an attached tree that lives.
const ATTACHED_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Serves holds until the daemon ends.
pub async fn accept(mut holds: mpsc::Receiver<(HoldConnection, Peer)>, context: Arc<Context>) {
    while let Some((connection, peer)) = holds.recv().await {
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            if let Err(error) = converse(&context, connection, peer).await {
                tracing::debug!(error = chain(&error), "conversation with a hold ended");
            }
        });
    }
}

async fn converse(
    context: &Arc<Context>,
    connection: HoldConnection,
    peer: Peer,
) -> Result<(), WireError> {
    let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, connection.receive());
    let (message, descriptors) = first.await.map_err(|_| WireError::Stuck)??;
    let refused = match message.message {
        Some(to_daemon::Message::Spawn(spawn)) => spawn_hold(context, &peer, spawn, descriptors)
            .await
            .map(|()| ToHold {
                message: Some(Message::Spawned(hold::Spawned {})),
            }),
        Some(to_daemon::Message::Register(register)) => {
            let kept = kept(&connection, register.guarded).await?;
            match present(context, &peer, register, descriptors) {
                Ok(presented) => return attend(context, connection, presented, kept).await,
                Err(reason) => Err(reason),
            }
        }
        _ => Err("a hold begins with Spawn or Register".to_owned()),
    };
    let answer = refused.unwrap_or_else(|reason| {
        tracing::warn!(reason, uid = peer.uid, "a hold was refused");
        let failed = hold::Failed {
            reason,
            may_start: false,
        };
        ToHold {
            message: Some(Message::Failed(failed)),
        }
    });
    connection.send(&answer, &[]).await
}

/// Receives what a hold has kept of a load whose daemon has died.
async fn kept(
    connection: &HoldConnection,
    announced: u32,
) -> Result<Vec<(Guarded, OwnedFd)>, WireError> {
    let announced = announced as usize;
    let mut kept = Vec::new();
    while kept.len() < announced.min(KEPT_MAX) {
        let next = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, connection.receive());
        let (message, descriptors) = next.await.map_err(|_| WireError::Stuck)??;
        let Some(to_daemon::Message::Guarded(guarded)) = message.message else {
            return Err(WireError::Unexpected);
        };
        let whose = guarded.processes.iter().map(|process| Guarded {
            pid: process.pid,
            forked: process.forked,
        });
        let userfaultfds = descriptors.iter().all(is_userfaultfd);
        if descriptors.is_empty() || whose.len() != descriptors.len() || !userfaultfds {
            return Err(WireError::Unexpected);
        }
        kept.extend(whose.zip(descriptors));
    }
    Ok(kept)
}

/// Whether a descriptor is what a hold says it is: what this daemon asks of it must not mean
/// something else.
fn is_userfaultfd(descriptor: &OwnedFd) -> bool {
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    std::fs::read_link(link).is_ok_and(|link| link.as_os_str() == "anon_inode:[userfaultfd]")
}

async fn spawn_hold(
    context: &Arc<Context>,
    peer: &Peer,
    spawn: Spawn,
    descriptors: Vec<OwnedFd>,
) -> Result<(), String> {
    let mut spec = spawn.spec.ok_or("Spawn names no workload")?;
    let [stdin, stdout, stderr, front]: [OwnedFd; 4] = descriptors
        .try_into()
        .map_err(|_| "Spawn carries four descriptors")?;
    // The init half comes back to this daemon, whatever the front half says.
    spec.socket = context.config.socket.to_string_lossy().into_owned();
    let caller = Caller::of_peer(peer);
    if caller.pid == 0 {
        return Err("the hold lives in a PID namespace that this daemon cannot see".to_owned());
    }
    refuse_other_network(peer, &caller)?;
    let libexec = context.config.libexec.clone();
    let descriptors = HoldDescriptors {
        stdio: [stdin, stdout, stderr],
        front,
    };
    let spawned =
        tokio::task::spawn_blocking(move || spawn::spawn(&libexec, &caller, &spec, descriptors));
    spawned
        .await
        .map_err(|_| "starting the hold panicked".to_owned())?
        .map_err(|error| chain(&error))
}

/// A hold gets the daemon's network and host name. A caller that lives in others would get them
/// without a word, so it is refused.
fn refuse_other_network(peer: &Peer, caller: &Caller) -> Result<(), String> {
    let process = peer.pidfd.as_ref().ok_or("the hold is gone")?;
    let namespaces = Namespaces::of(caller.pid, process).map_err(|error| chain(&error))?;
    let others = namespaces.for_criu().map_err(|error| chain(&error))?;
    if others.net.is_none() && others.uts.is_none() {
        return Ok(());
    }
    Err(
        "the caller lives in another network or host name namespace than this daemon; set \
         LIFEBOAT_IN_PLACE=1 to run the workload where the caller is, in a PID namespace of the \
         caller's own"
            .to_owned(),
    )
}

/// A hold that was taken into the registry.
struct Presented {
    workload: SharedWorkload,
    outbox: mpsc::Receiver<crate::workload::HoldMessage>,
    process: Pidfd,
    pid: u32,
    root_pid: u32,
    pipes: Option<Pipes>,
}

fn present(
    context: &Arc<Context>,
    peer: &Peer,
    register: Register,
    descriptors: Vec<OwnedFd>,
) -> Result<Presented, String> {
    let spec = register.spec.ok_or("Register names no workload")?;
    let name = spec
        .workload
        .parse()
        .map_err(|error| chain(&error as &dyn std::error::Error))?;
    let caller = Caller::of_peer(peer);
    let process = peer
        .pidfd
        .as_ref()
        .ok_or("the hold lives where this daemon cannot see it")?;
    let process = process.try_clone().map_err(|error| chain(&error))?;
    if register.instance.len() != 16 {
        return Err("Register has no identity of 16 bytes".to_owned());
    }
    let streams = stored_streams(&register.streams);
    let pipes = (register.root_pid == 0)
        .then(|| Pipes::pair(&streams, descriptors))
        .transpose()?
        .filter(|_| register.can_restore);
    let pid = caller.pid;
    let instance = hex::encode(&register.instance);
    let mut workload = Workload::new(name, caller, spec, instance, true);
    workload.set_streams(streams);
    let workload = context
        .registry
        .insert(workload)
        .map_err(|error| chain(&error))?;
    tokio::spawn(precopy::follow(Arc::clone(context), Arc::clone(&workload)));
    let outbox = workload.connect_hold();
    let root_pid = register.root_pid;
    Ok(Presented {
        workload,
        outbox,
        process,
        pid,
        root_pid,
        pipes,
    })
}

/// Serves a hold until its connection ends.
async fn attend(
    context: &Arc<Context>,
    connection: HoldConnection,
    presented: Presented,
    kept: Vec<(Guarded, OwnedFd)>,
) -> Result<(), WireError> {
    let Presented {
        workload,
        mut outbox,
        process,
        pid,
        root_pid,
        pipes,
    } = presented;
    if root_pid == 0 {
        let (context, workload) = (Arc::clone(context), Arc::clone(&workload));
        let process = process.try_clone();
        tokio::spawn(async move {
            match process {
                Ok(process) => bring_up::bring_up(&context, &workload, pid, &process, pipes).await,
                Err(error) => tracing::error!(error = chain(&error), "cannot follow a hold"),
            }
        });
    } else if kept.is_empty() {
        bring_up::adopt(context, &workload, pid, root_pid).await;
    } else {
        // It talks with the hold meanwhile.
        let (context, workload) = (Arc::clone(context), Arc::clone(&workload));
        tokio::spawn(async move {
            takeover::take_over(&context, &workload, pid, root_pid, kept).await;
        });
    }
    let connection = Arc::new(connection);
    let (inbox_in, mut inbox) = mpsc::channel(INBOX);
    let reading = {
        let connection = Arc::clone(&connection);
        tokio::spawn(async move {
            loop {
                let received = connection.receive().await;
                let ended = received.is_err();
                if inbox_in.send(received).await.is_err() || ended {
                    return;
                }
            }
        })
    };
    let ended = loop {
        tokio::select! {
            message = outbox.recv() => {
                // A newer connection of the same hold has taken over.
                let Some(message) = message else { break Ok(()) };
                let riding: Vec<_> = message.descriptors.iter().map(|fd| fd.as_fd()).collect();
                if let Err(error) = connection.send(&message.message, &riding).await {
                    break Err(error);
                }
                if message.sent.is_some_and(|sent| sent.send(()).is_err()) {
                    tracing::debug!(workload = %workload.name, "nobody waited for a message");
                }
            }
            received = inbox.recv() => match received {
                Some(Ok((message, _))) => handle(context, &workload, pid, &message),
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        }
    };
    reading.abort();
    if ended.is_err() {
        lost(context, &workload, process).await;
    }
    ended
}

fn handle(context: &Arc<Context>, workload: &SharedWorkload, pid: u32, message: &ToDaemon) {
    let (context, workload) = (Arc::clone(context), Arc::clone(workload));
    match message.message {
        Some(to_daemon::Message::Started(started)) => {
            tokio::spawn(async move {
                bring_up::runs(&context, &workload, pid, started.root_pid, Phase::Running).await;
            });
        }
        Some(to_daemon::Message::Exited(exited)) => {
            tokio::spawn(async move { exited_by_itself(&context, &workload, &exited).await });
        }
        _ => tracing::warn!(workload = %workload.name, "the hold said something unexpected"),
    }
}

/// The workload's first process has ended: was it evacuated, or did it end by itself?
async fn exited_by_itself(context: &Arc<Context>, workload: &SharedWorkload, exited: &Exited) {
    // A save that is about to release the tree holds the lock.
    let mut body = workload.exclusive().await;
    let view = workload.view();
    let evacuated = match view.phase {
        Phase::Evacuated => view.last_checkpoint.map(|saved| saved.id.to_string()),
        _ => context.outcomes.get(&workload.instance),
    };
    let noted = hold::ExitNoted {
        evacuated: evacuated.is_some(),
        checkpoint: evacuated.clone().unwrap_or_default(),
    };
    if evacuated.is_none() {
        body.tree = None;
        let event = format!("ended with wait status {:#x}", exited.wait_status);
        // One whose load has failed was killed, and its head is given back by who did it.
        let failed = view.phase == Phase::Ended;
        workload.publish(event, |view| view.phase = Phase::Ended);
        if !failed {
            load::settle(context, workload, HeadState::Finished).await;
        }
        context.registry.remove(workload);
    }
    workload
        .tell_hold(Message::ExitNoted(noted), Vec::new())
        .await;
}

/// The connection is gone: a hold that lives comes back by itself, one that died has ended its
/// workload.
async fn lost(context: &Arc<Context>, workload: &SharedWorkload, process: Pidfd) {
    let died = tokio::task::spawn_blocking(move || {
        process
            .wait_exit(Instant::now() + DEATH_TIMEOUT)
            .unwrap_or(false)
    });
    let over = matches!(workload.view().phase, Phase::Evacuated | Phase::Ended);
    if over || !died.await.unwrap_or(false) {
        return;
    }
    let mut body = workload.exclusive().await;
    if matches!(workload.view().phase, Phase::Evacuated | Phase::Ended) {
        return;
    }
    if let Some(tree) = body.tree.take() {
        tree::kill(tree.pid);
    }
    workload.publish("the hold was killed", |view| view.phase = Phase::Ended);
    // It did not end by itself: its last checkpoint may be restored.
    let latest = workload
        .right
        .lock()
        .await
        .as_ref()
        .and_then(|right| right.head.latest);
    let state = if latest.is_some() {
        HeadState::Evacuated
    } else {
        HeadState::Finished
    };
    load::settle(context, workload, state).await;
    context.registry.remove(workload);
}

/// Follows an attached tree until it ends.
pub fn watch_attached(context: &Arc<Context>, workload: &SharedWorkload, pid: u32) {
    let (context, workload) = (Arc::clone(context), Arc::clone(workload));
    tokio::spawn(async move {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        let Ok(process) = Pidfd::open(number) else {
            return;
        };
        // One thread of the blocking pool for each attached tree, for as long as it lives.
        let ended = tokio::task::spawn_blocking(move || {
            while let Ok(false) = process.wait_exit(Instant::now() + ATTACHED_LOOK_INTERVAL) {}
        });
        drop(ended.await);
        let mut body = workload.exclusive().await;
        if workload.view().phase != Phase::Evacuated {
            body.tree = None;
            workload.publish("ended", |view| view.phase = Phase::Ended);
            load::settle(&context, &workload, HeadState::Finished).await;
            context.registry.remove(&workload);
        }
    });
}

/// The tree of a workload, from its first process.
pub(crate) fn tree_of(pid: u32, inner_pid: u32) -> Option<Tree> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    Some(Tree {
        root: Pidfd::open(number).ok()?,
        pid,
        inner_pid,
    })
}
