//! Workloads under the daemon's care.
//!
//! A [`Workload`] is shared by everybody who looks at it; who wants to *do* something with it takes
//! its [`Workload::exclusive`] lock first, so that a save, a restore and an end never overlap. What
//! others may see is published as a [`View`] that changes as a whole.

pub mod namespaces;
mod registry;
pub mod tree;

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use lifeboat_criu::TcpMode;
use lifeboat_format::manifest::{StreamPipe, TcpPolicy};
use lifeboat_proto::{
    hold::{HoldSpec, ToHold, to_hold::Message},
    id::{CheckpointId, Epoch, WorkloadName},
    v1,
};
use lifeboat_sys::pidfd::Pidfd;
use lifeboat_track::Mode;
use tokio::sync::{mpsc, oneshot, watch};

pub use registry::{Registry, RegistryError};

use crate::{
    claim::{ClaimError, Heads, Right, Wish},
    evacuate::base::Loading,
    precopy,
    service::identity::Caller,
};

/// Most messages waiting for a hold.
pub const HOLD_QUEUE: usize = 64;

/// What a workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its hold waits for the daemon's decision.
    Starting,
    /// Runs.
    Running,
    /// Is being saved.
    Saving,
    /// Is being restored; does not run yet.
    Restoring,
    /// Runs, while part of its memory is still in the store.
    Loading,
    /// Was evacuated from this node.
    Evacuated,
    /// Has ended.
    Ended,
}

/// What others may see of a workload.
#[derive(Clone, Debug)]
pub struct View {
    /// What it does.
    pub phase: Phase,
    /// Its first process, in the daemon's PID namespace; zero while there is none.
    pub pid: u32,
    /// Fencing epoch.
    pub epoch: Epoch,
    /// The last committed checkpoint.
    pub last_checkpoint: Option<Saved>,
    /// Bytes of memory that are still in the store.
    pub missing_bytes: u64,
    /// How much of its memory is saved ahead of time, while that is done.
    pub ahead: Option<Arc<AheadView>>,
    /// The last rehearsal.
    pub last_drill: Option<Drilled>,
    /// Last failure, for people.
    pub last_error: String,
    /// What changed last, for people.
    pub event: String,
}

/// How a rehearsal went.
#[derive(Clone, Debug)]
pub struct Drilled {
    /// When it ended.
    pub at: SystemTime,
    /// From the call to where the commit would have been.
    pub total: Duration,
    /// Time that was left until the deadline, negative if it had passed; none without one.
    pub margin_ms: Option<i64>,
    /// Why the workload would not have been saved.
    pub error: Option<String>,
}

/// How much of a workload's memory is saved ahead of time.
#[derive(Clone, Debug)]
pub struct AheadView {
    /// The figures.
    pub figures: precopy::Figures,
    /// Of each process how its writes are found, and why not better.
    pub modes: Vec<(u32, Mode, Option<String>)>,
    /// Why it cannot be evacuated in time, if it cannot.
    pub late: Option<String>,
}

/// A committed checkpoint in short.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its id.
    pub id: CheckpointId,
    /// When the workload was frozen.
    pub frozen_at: SystemTime,
    /// Memory of the workload then, in bytes.
    pub memory_bytes: u64,
    /// Fencing epoch.
    pub epoch: Epoch,
}

/// The process tree of a workload.
#[derive(Debug)]
pub struct Tree {
    /// Its first process.
    pub root: Pidfd,
    /// PID of the first process in the daemon's PID namespace.
    pub pid: u32,
    /// PID of the first process in its own PID namespace.
    pub inner_pid: u32,
}

/// What only the holder of the exclusive lock may touch.
#[derive(Debug, Default)]
pub struct Body {
    /// The process tree, while there is one.
    pub tree: Option<Tree>,
    /// The load of its memory, while it goes on.
    pub loading: Option<Loading>,
    /// The pipes between hold and workload.
    pub streams: Vec<StreamPipe>,
}

/// A workload.
#[derive(Debug)]
pub struct Workload {
    /// Its name.
    pub name: WorkloadName,
    /// Who owns it.
    pub owner: Caller,
    /// What it is.
    pub spec: HoldSpec,
    /// Identity of its hold; also the owner in the workload's head.
    pub instance: String,
    /// When it was registered with this daemon.
    pub registered_at: SystemTime,
    /// Whether it runs under a hold (else it was attached).
    pub held: bool,
    /// What happens to established TCP connections.
    pub tcp: TcpPolicy,
    /// The right to commit. A lock of its own: signs of life go on during a long save.
    pub right: tokio::sync::Mutex<Option<Right>>,
    /// What is saved of its memory ahead of time.
    pub place: precopy::Place,
    streams: Vec<StreamPipe>,
    body: tokio::sync::Mutex<Body>,
    view: watch::Sender<View>,
    hold: Mutex<Option<mpsc::Sender<HoldMessage>>>,
}

/// A message to a hold, with the descriptors that ride on it.
#[derive(Debug)]
pub struct HoldMessage {
    /// The message.
    pub message: ToHold,
    /// The descriptors.
    pub descriptors: Vec<OwnedFd>,
    /// Told when the kernel has it: the hold reads it even if this daemon dies.
    pub sent: Option<oneshot::Sender<()>>,
}

impl Workload {
    /// A workload that does not run yet.
    #[must_use]
    pub fn new(
        name: WorkloadName,
        owner: Caller,
        spec: HoldSpec,
        instance: String,
        held: bool,
    ) -> Self {
        let view = View {
            phase: Phase::Starting,
            pid: 0,
            epoch: Epoch(0),
            last_checkpoint: None,
            missing_bytes: 0,
            ahead: None,
            last_drill: None,
            last_error: String::new(),
            event: "registered".to_owned(),
        };
        let tcp = if spec.tcp == "keep" {
            TcpPolicy::Keep
        } else {
            TcpPolicy::Close
        };
        Self {
            name,
            owner,
            tcp,
            right: tokio::sync::Mutex::default(),
            place: precopy::Place::default(),
            spec,
            instance,
            registered_at: SystemTime::now(),
            held,
            streams: Vec::new(),
            body: tokio::sync::Mutex::default(),
            view: watch::Sender::new(view),
            hold: Mutex::new(None),
        }
    }

    /// The right to commit. If it was not had so far, since the store was away when it was asked for,
    /// it is claimed now.
    ///
    /// # Errors
    /// When the store is still away, or the workload is somebody else's now.
    pub async fn obtain_right(&self, heads: &Heads) -> Result<Right, ClaimError> {
        let mut right = self.right.lock().await;
        if let Some(right) = &*right {
            return Ok(right.clone());
        }
        let wish = Wish {
            owner: self.instance.clone(),
            uid: self.owner.uid,
            fresh: true,
            take_over: self.spec.take_over,
        };
        let found = heads.reclaim(&self.name, &wish).await?;
        self.refresh(|view| {
            view.epoch = found.head.epoch;
            view.last_error.clear();
        });
        Ok(right.insert(found).clone())
    }

    /// Says which pipes are between hold and workload.
    pub fn set_streams(&mut self, streams: Vec<StreamPipe>) {
        self.streams = streams;
    }

    /// The pipes between hold and workload.
    #[must_use]
    pub fn streams(&self) -> &[StreamPipe] {
        &self.streams
    }

    /// Waits for the right to do something with the workload.
    pub async fn exclusive(&self) -> tokio::sync::MutexGuard<'_, Body> {
        self.body.lock().await
    }

    /// The right to do something with the workload, if nobody has it.
    pub fn try_exclusive(&self) -> Option<tokio::sync::MutexGuard<'_, Body>> {
        self.body.try_lock().ok()
    }

    /// What others may see now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Follows what others may see.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Changes what others may see; `event` tells people why.
    pub fn publish(&self, event: impl Into<String>, change: impl FnOnce(&mut View)) {
        let event = event.into();
        tracing::info!(workload = %self.name, event, "workload changed");
        self.view.send_modify(|view| {
            change(view);
            view.event = event;
        });
    }

    /// Changes numbers that others may see, without an event.
    pub fn refresh(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(change);
    }

    /// Connects the workload to its hold; the end of an older connection, if any, is dropped.
    pub fn connect_hold(&self) -> mpsc::Receiver<HoldMessage> {
        let (sender, receiver) = mpsc::channel(HOLD_QUEUE);
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Sends a message to the hold at once, without waiting for room.
    ///
    /// # Errors
    /// When the hold is not connected, or does not read.
    pub fn tell_hold_now(
        &self,
        message: Message,
        descriptors: Vec<OwnedFd>,
    ) -> std::io::Result<()> {
        let sender = self
            .hold
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let message = HoldMessage {
            message: ToHold {
                message: Some(message),
            },
            descriptors,
            sent: None,
        };
        sender
            .and_then(|sender| sender.try_send(message).ok())
            .ok_or_else(|| std::io::Error::other("the hold is not connected or does not read"))
    }

    /// Sends a message to the hold. A hold that is not connected comes back by itself and is told
    /// then, so a message that cannot be sent is not an error here.
    pub async fn tell_hold(&self, message: Message, descriptors: Vec<OwnedFd>) {
        if !self.queue(message, descriptors, None).await {
            tracing::warn!(workload = %self.name, "the hold is not connected");
        }
    }

    /// Sends a message to the hold, and waits until the kernel has it: the hold gets it even if this
    /// daemon dies. `false`: the hold is not connected, or does not read.
    pub async fn hold_has(&self, message: Message, descriptors: Vec<OwnedFd>) -> bool {
        let (sent, heard) = oneshot::channel();
        self.queue(message, descriptors, Some(sent)).await && heard.await.is_ok()
    }

    async fn queue(
        &self,
        message: Message,
        descriptors: Vec<OwnedFd>,
        sent: Option<oneshot::Sender<()>>,
    ) -> bool {
        let sender = self
            .hold
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(sender) = sender else { return false };
        let message = HoldMessage {
            message: ToHold {
                message: Some(message),
            },
            descriptors,
            sent,
        };
        sender.send(message).await.is_ok()
    }
}

impl Workload {
    /// How CRIU is to treat established TCP connections.
    #[must_use]
    pub const fn tcp_mode(&self) -> TcpMode {
        match self.tcp {
            TcpPolicy::Close => TcpMode::Close,
            TcpPolicy::Keep => TcpMode::Keep,
        }
    }

    /// Paths that travel with checkpoints: those that were named, and the shared memory files of
    /// the hold's own `/dev/shm`.
    #[must_use]
    pub fn preserved(&self) -> Vec<PathBuf> {
        let own_shm = self.held.then(|| PathBuf::from("/dev/shm"));
        self.spec
            .preserve
            .iter()
            .map(PathBuf::from)
            .chain(own_shm)
            .collect()
    }
}

impl From<Phase> for v1::WorkloadState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Starting => Self::Starting,
            Phase::Running => Self::Running,
            Phase::Saving => Self::Saving,
            Phase::Restoring => Self::Restoring,
            Phase::Loading => Self::Loading,
            Phase::Evacuated => Self::Evacuated,
            Phase::Ended => Self::Ended,
        }
    }
}

/// The view of a workload, shared.
pub type SharedWorkload = Arc<Workload>;
