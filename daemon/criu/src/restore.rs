//! One restore, from start to the running tree.

use std::{os::fd::OwnedFd, sync::Arc};

use crate::{Bundle, ImageSource, LogSummary, RestoreRequest};

/// What the restored tree tells its page server, in the order of arrival. Processes fault before
/// [`LazyEvent::Finished`]: serve each at once.
#[derive(Debug)]
pub enum LazyEvent {
    /// A process (PID as in the image) registers its lazy mappings with this userfaultfd.
    Process {
        /// PID as in the image.
        pid: u32,
        /// Non-blocking, close-on-exec.
        uffd: OwnedFd,
    },
    /// A process that is a zombie: nothing to serve.
    Zombie {
        /// PID as in the image.
        pid: u32,
    },
    /// Every process was handed over, and the tree is about to run. The channel ends after this;
    /// a channel that ends without it means that the restore failed.
    Finished,
}

/// Why a restore failed. CRIU has killed what it built.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// CRIU gave up.
    #[error("criu restore: {summary}")]
    Refused {
        /// What its log says.
        summary: Box<LogSummary>,
    },
}

/// Most [`LazyEvent`]s waiting to be taken.
pub const LAZY_EVENTS_MAX: usize = 64;

/// A restore under way. Dropping it fails the restore: CRIU kills what it built.
#[derive(Debug)]
pub struct Restore {}

impl Restore {
    /// Starts CRIU. The channel must be drained all the time.
    ///
    /// # Errors
    /// Nothing was built.
    pub async fn start(
        _bundle: &Bundle,
        _request: RestoreRequest,
        _source: Arc<dyn ImageSource>,
    ) -> Result<(Self, async_channel::Receiver<LazyEvent>), RestoreError> {
        Ok((Self {}, async_channel::bounded(LAZY_EVENTS_MAX).1))
    }

    /// Waits until the tree is rebuilt and held before its first instruction: the last moment at
    /// which CRIU can be told to give up. All userfaultfds were sent by then; eager restores
    /// install all pages here.
    ///
    /// # Errors
    /// The restore failed.
    pub async fn rebuilt(self) -> Result<Rebuilt, RestoreError> {
        Ok(Rebuilt {})
    }
}

/// A rebuilt tree, held. Dropping it fails the restore.
#[derive(Debug)]
pub struct Rebuilt {}

impl Rebuilt {
    /// Lets the tree run.
    ///
    /// # Errors
    /// The restore failed after all.
    pub async fn resume(self) -> Result<Restored, RestoreError> {
        Ok(Restored { root_pid: 0 })
    }

    /// Kills the tree.
    ///
    /// # Errors
    /// CRIU did not end in time.
    pub async fn abort(self) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// A restored tree that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// PID of its first process, in the PID namespace that CRIU ran in.
    pub root_pid: u32,
}
