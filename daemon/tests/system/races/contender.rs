//! Somebody who claims and commits, by the daemon's own code.

use std::sync::Arc;

use lifeboat_format::{
    LatestManifest, Manifest,
    manifest::{TcpPolicy, WorkloadSpec},
};
use lifeboat_proto::{
    hold::HoldSpec,
    id::{CheckpointId, WorkloadName},
};
use lifeboat_store::Call;
use lifeboatd::{
    evacuate::commit::{self, CommitError},
    service::identity::Caller,
    workload::Workload,
};

use super::{lane::LOOK, node::Node};

/// Somebody with a hold on a node, with the right to commit or without.
#[derive(Clone)]
pub(super) struct Contender {
    /// On which node.
    pub node: usize,
    /// What it has of the workload.
    pub workload: Arc<Workload>,
}

impl Contender {
    /// A new hold of a workload.
    pub(super) fn new(node: usize, name: &WorkloadName, instance: String) -> Self {
        let (owner, spec) = (Caller::operator(), HoldSpec::default());
        let workload = Workload::new(name.clone(), owner, spec, instance, true);
        Self {
            node,
            workload: Arc::new(workload),
        }
    }
}

/// What a source that is presumed dead does meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Commits and leaves.
    Evacuate,
    /// Commits and stays.
    Checkpoint,
    /// Shows a sign of life.
    Renew,
}

/// Whether somebody else has the right now.
pub(super) fn is_lost(error: &CommitError) -> bool {
    matches!(error, CommitError::Head(error) | CommitError::Superseded(error) if error.is_lost())
}

impl Act {
    /// The checkpoint that was committed by it.
    pub(super) async fn done_by(self, source: &Contender, node: &Node) -> Option<LatestManifest> {
        match self {
            Self::Renew => {
                let mut right = source.workload.right.lock().await;
                let right = right.as_mut().expect("it was given one");
                // Whether or not it may still.
                drop(node.context.heads.renew(&source.workload.name, right).await);
                None
            }
            Self::Evacuate | Self::Checkpoint => {
                let leaves = matches!(self, Self::Evacuate);
                match commit_one(source, node, leaves).await {
                    Ok(latest) => Some(latest),
                    Err(error) => {
                        assert!(is_lost(&error), "{error:?}");
                        None
                    }
                }
            }
        }
    }
}

/// Writes a manifest, and commits it as the daemon does.
pub(super) async fn commit_one(
    one: &Contender,
    node: &Node,
    leaves: bool,
) -> Result<LatestManifest, CommitError> {
    let right = one.workload.right.lock().await.clone();
    let manifest = Manifest {
        checkpoint: CheckpointId::new(),
        workload: one.workload.name.clone(),
        epoch: right.expect("it was given one").head.epoch,
        frozen_at_unix_ns: 0,
        platform: node.context.platform.clone(),
        spec: WorkloadSpec {
            argv: Vec::new(),
            working_directory: "/".to_owned(),
            uid: 0,
            gid: 0,
            preserve: Vec::new(),
            tcp: TcpPolicy::Close,
            terminal: false,
            streams: Vec::new(),
        },
        packs: Vec::new(),
        frames: Vec::new(),
        address_spaces: Vec::new(),
        image_files: Vec::new(),
        files: None,
        root_pid: 1001,
        memory_bytes: 0,
        parent: None,
        shared_memory: Vec::new(),
    };
    let written = commit::write(&node.context, &manifest, Call::within(LOOK)).await?;
    if leaves {
        commit::evacuated(&node.context, &one.workload, &written).await?;
    } else {
        commit::checkpoint(&node.context, &one.workload, &written).await?;
    }
    Ok(written.latest())
}
