//! The last two writes: the manifest, then the head.
//!
//! After the manifest nothing points to the checkpoint yet: it can still be forgotten. The change of
//! the head is the commit. Its answer may be lost; [`evacuated`] then goes on until it is known, with
//! the tree frozen all the while: neither may a committed workload run on here, nor may one be
//! killed that was not committed. One answer never comes: a successor that has gone on and committed
//! again has overwritten it. The workload runs there, so its frozen tree does not wake up here
//! ([`CommitError::is_superseded`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat_format::{
    FormatError, HeadState, LatestManifest, Manifest,
    error::Problem,
    keys,
    manifest::{AddressSpace, FileArchive, ImageFile, SharedMemory, WorkloadSpec},
};
use lifeboat_proto::id::CheckpointId;
use lifeboat_store::{Call, Key, StoreError};

use super::{base::Loading, memory::Whose, save::Captured, tables::Tables};
use crate::{
    claim::{ClaimError, Right},
    daemon::Context,
    observe::{chain, failpoint},
    pipeline,
    precopy::{AheadError, SharedAhead, Uncaptured},
    workload::Workload,
};

/// Time between attempts to find out how a commit ended.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// Why a checkpoint was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The manifest does not fit the format.
    #[error("encode the manifest")]
    Format(#[source] FormatError),
    /// The pages do not make an index.
    #[error("index the pages of {whose}: {problem:?}")]
    Index {
        /// Whose.
        whose: Whose,
        /// What is wrong.
        problem: Problem,
    },
    /// A page is missing.
    #[error("the memory of {whose} is not captured")]
    Uncaptured {
        /// Whose.
        whose: Whose,
        /// Which.
        #[source]
        source: Uncaptured,
    },
    /// The books of what was saved ahead of time cannot be kept.
    #[error("enter the delta into the books")]
    Ahead(#[source] AheadError),
    /// The store did not take the manifest.
    #[error("write the manifest")]
    Store(#[source] StoreError),
    /// The key is not one.
    #[error("name the manifest: {reason}")]
    Key {
        /// What is wrong.
        reason: String,
    },
    /// The head could not be changed.
    #[error("change the workload's head")]
    Head(#[source] ClaimError),
    /// The answer to the commit was lost; it has been found out that it did not happen.
    #[error("the answer to the commit was lost; it did not happen")]
    NotCommitted,
    /// The tree was frozen until it was found out that another node has the workload, perhaps from this
    /// very commit.
    #[error("the workload was taken over while it was frozen here; it does not run here any more")]
    Superseded(#[source] ClaimError),
    /// The claim was given up meanwhile.
    #[error("this node has no claim on the workload any more")]
    NoRight,
}

impl CommitError {
    /// Whether the workload runs elsewhere now, and its frozen tree must not wake up.
    #[must_use]
    pub const fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded(_))
    }
}

/// A manifest in the store that nothing points to yet.
#[derive(Clone, Copy, Debug)]
pub struct Written(LatestManifest);

impl Written {
    /// What a head names it by.
    #[must_use]
    pub const fn latest(&self) -> LatestManifest {
        self.0
    }
}

/// What a manifest is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The checkpoint.
    pub id: CheckpointId,
    /// The right to commit it.
    pub right: &'a Right,
    /// The workload.
    pub workload: &'a Workload,
    /// The daemon's parts.
    pub context: &'a Context,
    /// The load under way, if there is one.
    pub loading: Option<&'a Loading>,
    /// What was saved ahead of time, if anything.
    pub ahead: Option<&'a SharedAhead>,
    /// The pipes between hold and workload.
    pub streams: &'a [lifeboat_format::manifest::StreamPipe],
    /// Memory of the workload, in bytes.
    pub memory_bytes: u64,
    /// When it was frozen.
    pub frozen_at: SystemTime,
}

impl Parts<'_> {
    /// Puts the manifest together.
    ///
    /// # Errors
    /// When the captured pages do not make an index, or are not all there.
    pub fn manifest(
        &self,
        mut uploaded: pipeline::Captured,
        captured: &Captured,
    ) -> Result<Manifest, CommitError> {
        let tables = Tables::new(&mut uploaded, &captured.found, self.ahead)?;
        let spaces = captured.found.spaces.iter();
        let mut runs = tables.runs.into_iter();
        let spaces = spaces.zip(runs.by_ref().zip(tables.hot));
        let address_spaces = spaces.map(|(space, (runs, hot))| AddressSpace {
            pid: space.inner_pid,
            runs,
            hot,
            captured: space.captured.clone(),
        });
        let address_spaces = address_spaces.collect();
        let objects = captured.found.objects.iter().zip(runs);
        let shared_memory = objects.map(|(object, runs)| SharedMemory {
            id: object.id,
            runs,
            pages: object.pages,
        });
        let shared_memory = shared_memory.collect();
        let image_files = captured.found.files.iter().map(|file| ImageFile {
            name: file.name.clone(),
            size_bytes: file.size_bytes,
            frames: uploaded.streams.remove(&file.stream).unwrap_or_default(),
        });
        let image_files = image_files.collect();
        let files = captured.files.map(|(stream, size_bytes)| FileArchive {
            size_bytes,
            frames: uploaded.streams.remove(&stream).unwrap_or_default(),
        });
        let mut manifest = Manifest {
            checkpoint: self.id,
            workload: self.workload.name.clone(),
            epoch: self.right.head.epoch,
            frozen_at_unix_ns: unix_ns(self.frozen_at),
            platform: self.context.platform.clone(),
            spec: self.spec(),
            packs: tables.packs,
            frames: tables.frames,
            address_spaces,
            image_files,
            files,
            root_pid: captured.root_pid,
            memory_bytes: self.memory_bytes,
            parent: self.right.head.latest.map(|latest| latest.checkpoint),
            shared_memory,
        };
        if self.ahead.is_some() {
            manifest.prune();
        }
        if let Some(loading) = self.loading {
            loading
                .add_to(&mut manifest, &captured.found.spaces)
                .map_err(|(pid, problem)| {
                    let whose = Whose::Process(pid);
                    CommitError::Index { whose, problem }
                })?;
        }
        Ok(manifest)
    }

    fn spec(&self) -> WorkloadSpec {
        let spec = &self.workload.spec;
        WorkloadSpec {
            argv: spec.argv.clone(),
            working_directory: spec.working_directory.clone(),
            uid: self.workload.owner.uid,
            gid: self.workload.owner.gid,
            preserve: spec.preserve.clone(),
            tcp: self.workload.tcp,
            terminal: spec.terminal,
            streams: self.streams.to_vec(),
        }
    }
}

/// Writes the manifest.
///
/// # Errors
/// When the store does not take it.
pub async fn write(
    context: &Context,
    manifest: &Manifest,
    call: Call,
) -> Result<Written, CommitError> {
    let (body, digest) = manifest
        .encode(&context.seal)
        .map_err(CommitError::Format)?;
    let key = keys::checkpoint(&manifest.workload, manifest.epoch, manifest.checkpoint);
    let key: Key = key
        .parse()
        .map_err(|error: lifeboat_store::KeyError| CommitError::Key {
            reason: error.to_string(),
        })?;
    context
        .store
        .put_if_absent(&key, body, call)
        .await
        .map_err(CommitError::Store)?;
    Ok(Written(LatestManifest {
        checkpoint: manifest.checkpoint,
        epoch: manifest.epoch,
        digest,
    }))
}

/// Commits a checkpoint of a workload that runs on.
///
/// # Errors
/// When the head could not be changed; a lost answer counts as a failure: the next checkpoint or
/// sign of life finds out.
pub async fn checkpoint(
    context: &Context,
    workload: &Workload,
    written: &Written,
) -> Result<(), CommitError> {
    let changed = change(context, workload, HeadState::Running, written).await;
    changed.map_err(|error| match error {
        // It was not frozen meanwhile.
        CommitError::Superseded(error) => CommitError::Head(error),
        error => error,
    })
}

/// Commits a checkpoint of a workload that will be killed. Returns only when it is known whether the
/// commit happened.
///
/// # Errors
/// When it did not happen, for sure; or [`CommitError::Superseded`].
pub async fn evacuated(
    context: &Context,
    workload: &Workload,
    written: &Written,
) -> Result<(), CommitError> {
    change(context, workload, HeadState::Evacuated, written).await
}

async fn change(
    context: &Context,
    workload: &Workload,
    state: HeadState,
    written: &Written,
) -> Result<(), CommitError> {
    let mut right = workload.right.lock().await;
    let right = right.as_mut().ok_or(CommitError::NoRight)?;
    match context
        .heads
        .change(&workload.name, right, state, Some(written.0))
        .await
    {
        Ok(()) => {
            failpoint::reach("head-written");
            Ok(())
        }
        Err(error) if error.is_unknown() => {
            tracing::warn!(error = chain(&error), "the answer to a commit was lost");
            settle(context, workload, right, written).await
        }
        // It may have been done before: its answer was lost, and a successor has claimed since.
        Err(error) if error.is_lost() => {
            let settled = settle(context, workload, right, written).await;
            match settled {
                Err(CommitError::Superseded(error))
                    if began_before(context, workload, right).await =>
                {
                    Err(CommitError::Head(error))
                }
                settled => settled,
            }
        }
        Err(error) => Err(CommitError::Head(error)),
    }
}

/// Whether the present owner has begun from the checkpoint before this node's commit, and has committed
/// nothing since: then this node's did not happen.
async fn began_before(context: &Context, workload: &Workload, right: &Right) -> bool {
    let present = context.heads.read(&workload.name).await;
    let latest = present
        .ok()
        .flatten()
        .and_then(|present| present.head.latest);
    latest.is_some() && latest == right.head.latest
}

async fn settle(
    context: &Context,
    workload: &Workload,
    right: &mut Right,
    written: &Written,
) -> Result<(), CommitError> {
    let name = &workload.name;
    loop {
        match context
            .heads
            .settle(name, right, written.0.checkpoint)
            .await
        {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(CommitError::NotCommitted),
            Err(error) if error.is_lost() => return Err(CommitError::Superseded(error)),
            Err(error) => {
                let text = chain(&error);
                tracing::warn!(workload = %name, error = text, "outcome of a commit still unknown");
                workload.refresh(|view| view.last_error = text);
                tokio::time::sleep(SETTLE_INTERVAL).await;
            }
        }
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The pipes of a hold, as they are stored.
#[must_use]
pub fn stored_streams(
    streams: &[lifeboat_proto::hold::StreamPipe],
) -> Vec<lifeboat_format::manifest::StreamPipe> {
    use lifeboat_format::manifest::{Stream, StreamPipe};
    streams
        .iter()
        .filter_map(|pipe| {
            let stream = match pipe.stream.as_str() {
                "stdin" => Stream::Stdin,
                "stdout" => Stream::Stdout,
                "stderr" => Stream::Stderr,
                "terminal-control" => Stream::TerminalControl,
                _ => return None,
            };
            Some(StreamPipe {
                stream,
                inode: pipe.inode,
            })
        })
        .collect()
}
