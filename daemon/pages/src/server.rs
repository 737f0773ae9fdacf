//! The page server's outside: what the daemon calls. (signatures first; bodies follow)

use std::{os::fd::OwnedFd, sync::Arc};

use crate::{AddError, FrameSource, LoadError, Options, Progress, Report, Run, Space, StartError};

/// Serves the memory of one restored process tree.
#[derive(Debug)]
pub struct PageServer {}

/// Prefetch is paused while this lives.
#[derive(Debug)]
pub struct Paused {}

/// Processes that still live although their load was to be given up.
#[derive(Debug, thiserror::Error)]
#[error("{process} still lives: closing its userfaultfd would turn missing pages into zeros")]
pub struct StillAlive {
    /// One of them.
    pub process: String,
}

impl PageServer {
    /// Starts the fault thread, the installers and the fetcher.
    ///
    /// # Errors
    /// Nothing was started.
    pub fn start(
        source: Arc<dyn FrameSource>,
        spaces: Vec<Space>,
        options: Options,
    ) -> Result<Self, StartError> {
        let _ = (source, spaces, options);
        Ok(Self {})
    }

    /// Serves a process from now on. `uffd` must be non-blocking.
    ///
    /// # Errors
    /// The descriptor is closed; kill the process.
    pub fn add(&self, pid: u32, uffd: OwnedFd) -> Result<(), AddError> {
        let _ = (pid, uffd);
        Ok(())
    }

    /// Every process was handed over and has its mappings registered: prefetch may begin.
    pub fn all_added(&self) {}

    /// Waits until every page is in. Then let the guard drop its descriptors, and [`Self::finish`].
    ///
    /// # Errors
    /// The load failed: kill the processes, then [`Self::abort`]. Until then they block.
    pub async fn loaded(&self) -> Result<Report, LoadError> {
        Ok(Report::default())
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::default()
    }

    /// Stops prefetch, and waits until what was under way is installed. Faults are still answered.
    pub async fn pause(&self) -> Paused {
        Paused {}
    }

    /// Captured pages of a process that are not loaded yet, at their present addresses. Stable
    /// while the process is frozen and prefetch is paused (a fault may still load one: its frame
    /// says the same as memory then). `None`: no such process.
    #[must_use]
    pub fn unloaded(&self, pid: u32) -> Option<Vec<Run>> {
        let _ = pid;
        None
    }

    /// Duplicates of all descriptors, those of processes forked while loading included.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn descriptors(&self) -> std::io::Result<Vec<OwnedFd>> {
        Ok(Vec::new())
    }

    /// Gives a load up whose processes are dead.
    ///
    /// # Errors
    /// One lives: nothing was closed, faults still block; kill it and call again.
    pub fn abort(&self) -> Result<(), StillAlive> {
        Ok(())
    }

    /// Ends the service of a completed load and closes the descriptors. (Dropping a server whose
    /// load is not complete leaves them open for ever: zeros are worse than blocked processes.)
    pub fn finish(self) {}
}
