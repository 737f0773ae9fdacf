//! Where the journals of loads are, and which checkpoint each is about.
//!
//! They lie in memory (`/run`), each named for the hold whose workload is loaded. One that nobody
//! has locked and nobody asked for is removed after a while.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lifeboat_format::LatestManifest;
use lifeboat_pages::{History, HistoryError, Journal};
use lifeboat_proto::id::Epoch;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// The folder of all journals of loads.
const FOLDER: &str = "/run/lifeboat/loads";

/// Age from which a journal that nobody uses is removed.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(600);

/// What a load is about.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    workload: String,
    epoch: u64,
    checkpoint: String,
    digest: String,
}

/// Why a load cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The journal cannot be relied on.
    #[error("read what the predecessor has left")]
    History(#[source] HistoryError),
    /// It is about something else.
    #[error("the journal {path} is not about a load of workload {workload}")]
    Other {
        /// The file.
        path: PathBuf,
        /// The workload.
        workload: String,
    },
}

fn path(workload: &Workload) -> PathBuf {
    // Sixteen bytes in hexadecimal digits, see `service::hold`.
    Path::new(FOLDER).join(&workload.instance)
}

/// A journal for the load of `checkpoint`.
///
/// # Errors
/// What the system says.
pub fn create(workload: &Workload, checkpoint: LatestManifest) -> io::Result<Journal> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true).mode(0o700).create(FOLDER)?;
    let about = About {
        workload: workload.name.to_string(),
        epoch: checkpoint.epoch.0,
        checkpoint: checkpoint.checkpoint.to_string(),
        digest: hex::encode(checkpoint.digest),
    };
    Journal::create(&path(workload), &serde_json::to_vec(&about)?)
}

/// The journal that a predecessor left, what it says, and the checkpoint that it is about.
///
/// # Errors
/// There is none, or it cannot be relied on.
pub fn resume(workload: &Workload) -> Result<(Journal, History, LatestManifest), HandoverError> {
    let path = path(workload);
    let (journal, history) = Journal::resume(&path).map_err(HandoverError::History)?;
    let latest = parse(&history.about, workload).ok_or_else(|| HandoverError::Other {
        path,
        workload: workload.name.to_string(),
    })?;
    Ok((journal, history, latest))
}

fn parse(about: &[u8], workload: &Workload) -> Option<LatestManifest> {
    let about: About = serde_json::from_slice(about).ok()?;
    let digest = hex::decode(about.digest).ok()?.try_into().ok()?;
    (about.workload == workload.name.as_str()).then_some(LatestManifest {
        checkpoint: about.checkpoint.parse().ok()?,
        epoch: Epoch(about.epoch),
        digest,
    })
}

/// Removes journals that nobody will ask for.
pub fn clear_up() {
    let Ok(files) = std::fs::read_dir(FOLDER) else {
        return;
    };
    let now = SystemTime::now();
    for file in files.flatten() {
        let changed = file.metadata().and_then(|metadata| metadata.modified());
        let age = changed.ok().and_then(|at| now.duration_since(at).ok());
        if age.is_none_or(|age| age < LEFT_OVER_AFTER) {
            continue;
        }
        let unused = File::open(file.path())
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        if unused && let Err(error) = std::fs::remove_file(file.path()) {
            tracing::debug!(path = %file.path().display(), %error, "cannot remove a journal");
        }
    }
}
