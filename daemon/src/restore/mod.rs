//! Back onto a machine: from a claimed checkpoint to a running tree with all its memory.
//!
//! ```text
//! open manifest ─▶ check ─▶ files ─▶ rebuild (CRIU) ─▶ hand-off (uffd) ─▶ run ─▶ load
//! ```
//!
//! Guarantees:
//! - Nothing of an image reaches a process before it was authenticated, and no image may ask for
//!   more than the hold's own user has ([`open`]).
//! - A page that cannot be had is never zero: the tree is killed, the claim is given back, and the
//!   checkpoint can be restored again ([`load`]).
//! - The head says *restoring* until every page is in. A machine that dies before that leaves a
//!   workload that anybody may restore from the same checkpoint.
//! - A daemon that dies before that leaves a tree that waits for its memory; the next one goes on
//!   ([`takeover`]), or the tree is killed.

pub mod handover;
pub mod images;
pub mod load;
pub mod open;
pub mod rebuild;
mod shared;
pub mod takeover;

use std::{io, sync::Arc, time::Instant};

use lifeboat_criu::{Restored, images::ImagesError};
use lifeboat_format::{FormatError, LatestManifest};
use lifeboat_pages::{FetchError, LoadError};
use lifeboat_store::StoreError;

use crate::{
    daemon::Context,
    evacuate::memory::CaptureError,
    observe::failpoint,
    workload::{
        Workload,
        namespaces::{NamespaceError, Namespaces},
    },
};

/// Why a checkpoint was not restored. Nothing of it runs; it can be restored again.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest could not be read.
    #[error("read manifest {key}")]
    Read {
        /// Its key.
        key: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The manifest could not be understood.
    #[error("manifest {key} cannot be used")]
    Manifest {
        /// Its key.
        key: String,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// The manifest is not the one that was committed.
    #[error("manifest {key} is not the one that was committed: its digest differs from the head's")]
    NotCommitted {
        /// Its key.
        key: String,
    },
    /// It belongs to somebody else.
    #[error("the checkpoint belongs to user {owner}; only this user and root can restore it")]
    Foreign {
        /// Who owns it.
        owner: u32,
    },
    /// This machine is not like the one that it was made on.
    #[error("this machine cannot run the checkpoint: {}", reasons.join("; "))]
    Platform {
        /// What differs.
        reasons: Vec<String>,
    },
    /// The hold cannot be looked at.
    #[error("look at hold {pid}")]
    Hold {
        /// Its PID.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Image files are not what they should be.
    #[error("check the image files")]
    Images(#[source] ImagesError),
    /// Frames could not be had.
    #[error("fetch {what}")]
    Fetch {
        /// What for.
        what: String,
        /// What went wrong.
        #[source]
        source: FetchError,
    },
    /// The workload's files could not be written.
    #[error("put the workload's files in place")]
    Files(#[source] CaptureError),
    /// The hold's namespaces cannot be opened.
    #[error("open the hold's namespaces")]
    Namespaces(#[source] NamespaceError),
    /// A work directory cannot be made.
    #[error("make a work directory")]
    WorkDir(#[source] io::Error),
    /// The hold cannot guard what is loaded, or there is no journal for it.
    #[error("have the hold guard the missing pages")]
    Guard(#[source] io::Error),
    /// The page server cannot be started.
    #[error("start the page-fault server")]
    PageServer(#[source] lifeboat_pages::StartError),
    /// A process was not taken by the page server.
    #[error("take over a process's missing pages")]
    HandOff(#[source] lifeboat_pages::AddError),
    /// CRIU refused.
    #[error("rebuild the process tree")]
    Rebuild(#[source] lifeboat_criu::RestoreError),
    /// Memory could not be loaded.
    #[error("load the memory")]
    Load(#[source] LoadError),
    /// The tree ended before it ran.
    #[error("the restored tree ended at once")]
    Ended,
}

/// A hold that waits for a restored tree.
#[derive(Debug)]
pub struct Destination {
    /// PID of the hold in the daemon's PID namespace.
    pub hold_pid: u32,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// The workload's ends of the pipes, by the stream that each carries.
    pub pipes: Vec<(lifeboat_format::manifest::Stream, std::os::fd::OwnedFd)>,
}

/// A tree that runs; its memory may still be loading.
#[derive(Debug)]
pub struct Running {
    /// The tree.
    pub restored: Restored,
    /// Unread bytes of standard input.
    pub pending_stdin: Vec<u8>,
    /// The load of the pages that are missing.
    pub load: load::Load,
    /// The checkpoint that was restored.
    pub saved: crate::workload::Saved,
    /// Whether all of them are in.
    pub complete: bool,
}

/// Restores a checkpoint into a hold. The tree runs on return.
///
/// # Errors
/// Nothing of it runs.
pub async fn restore(
    context: &Arc<Context>,
    workload: &Arc<Workload>,
    latest: LatestManifest,
    destination: Destination,
) -> Result<Running, RestoreError> {
    let began = Instant::now();
    let opened = open::open(context, workload, latest, destination.hold_pid).await?;
    tracing::info!(
        workload = %workload.name,
        checkpoint = %latest.checkpoint,
        elapsed_ms = began.elapsed().as_millis(),
        "manifest and images read"
    );
    failpoint::reach("restore-opened");
    let (namespaces, program) = (&destination.namespaces, &context.config.program);
    open::extract_files(workload, &opened, namespaces, program).await?;
    rebuild::rebuild(context, workload, opened, latest, destination, began).await
}
