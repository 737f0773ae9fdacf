//! One dump, from start to verdict.

use std::sync::Arc;

use lifeboat_proto::units::PageRun;

use crate::{Bundle, DumpRequest, ImageError, ImageSet, ImageSink, LogSummary, WorkDir};

/// What CRIU asks the daemon while it dumps.
pub trait DumpDelegate: Send + Sync + 'static {
    /// Every thread of the tree is stopped now and stays so until the verdict: reading memory may
    /// start. Called once, before the first [`DumpDelegate::hidden`]. Must return at once.
    fn frozen(&self);

    /// The pages of the process (PID as CRIU sees it) that CRIU shall not see, ascending and
    /// disjoint. Called once for each process, on a thread that may block; the tree waits.
    ///
    /// Only private anonymous mappings can be hidden (CRIU takes shared memory from elsewhere), and
    /// executable ones should not be: CRIU patches an instruction there for a moment whenever it
    /// lets the process make a system call.
    ///
    /// # Errors
    /// Aborts the dump.
    fn hidden(&self, inner_pid: u32) -> Result<Vec<PageRun>, ImageError>;
}

/// Why a dump failed. Unless said otherwise the tree runs on.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// CRIU gave up.
    #[error("criu dump of {inner_pid}: {summary}")]
    Refused {
        /// The tree.
        inner_pid: u32,
        /// What its log says.
        summary: Box<LogSummary>,
    },
}

/// A dump under way. Dropping it aborts the dump.
#[derive(Debug)]
pub struct Dump {}

impl Dump {
    /// Starts CRIU.
    ///
    /// # Errors
    /// The tree was not touched.
    pub async fn start(
        _bundle: &Bundle,
        _request: DumpRequest,
        _delegate: Arc<dyn DumpDelegate>,
        _sink: Arc<dyn ImageSink>,
    ) -> Result<Self, DumpError> {
        Ok(Self {})
    }

    /// Waits until everything about the tree was written and every image file has ended. The tree
    /// is held frozen then.
    ///
    /// # Errors
    /// The dump was aborted.
    pub async fn described(self) -> Result<Described, DumpError> {
        Ok(Described {})
    }
}

/// A described tree, held frozen. Dropping it aborts the dump: the tree runs on.
#[derive(Debug)]
pub struct Described {}

impl Described {
    /// The image files that can be decoded (all but page contents and other bulk).
    #[must_use]
    pub fn images(&self) -> &ImageSet {
        unimplemented!()
    }

    /// Says that a commit is being attempted: from here on a loss of the daemon leaves the tree
    /// frozen, until [`Pending::adopt`] tells the hook how the commit ended.
    ///
    /// # Errors
    /// The hook did not answer; the dump was aborted.
    pub async fn committing(self) -> Result<Committing, DumpError> {
        Ok(Committing {})
    }

    /// Resumes the tree and waits until CRIU is gone.
    ///
    /// # Errors
    /// CRIU did not end in time.
    pub async fn abort(self) -> Result<(), DumpError> {
        Ok(())
    }
}

/// A described tree whose commit is being attempted. Dropping it leaves the tree frozen.
#[derive(Debug)]
pub struct Committing {}

impl Committing {
    /// The commit was acknowledged: kills the tree (or resumes it, if so asked) and waits until
    /// CRIU is gone.
    ///
    /// # Errors
    /// CRIU did not confirm. The commit stands: the caller must see to it that the tree is dead.
    pub async fn release(self) -> Result<(), DumpError> {
        Ok(())
    }

    /// The commit surely did not happen: resumes the tree and waits until CRIU is gone.
    ///
    /// # Errors
    /// CRIU did not end in time.
    pub async fn abort(self) -> Result<(), DumpError> {
        Ok(())
    }
}

/// A frozen tree whose daemon died while a commit was being attempted.
#[derive(Debug)]
pub struct Pending {}

impl Pending {
    /// Waits for the hook of the dump whose work directory this is. `None`: no hook came in time
    /// (it looks for a daemon at least once a second), so there is nothing frozen by it.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn adopt(_work_dir: &WorkDir) -> Result<Option<Self>, DumpError> {
        Ok(None)
    }

    /// The commit turned out to have happened: see [`Committing::release`].
    ///
    /// # Errors
    /// As there.
    pub async fn release(self) -> Result<(), DumpError> {
        Ok(())
    }

    /// The commit turned out not to have happened: see [`Committing::abort`].
    ///
    /// # Errors
    /// As there.
    pub async fn abort(self) -> Result<(), DumpError> {
        Ok(())
    }
}
