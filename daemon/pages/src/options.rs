//! What a load may use, and who guards its descriptors.

use std::{fmt::Debug, io, os::fd::OwnedFd, sync::Arc};

use tokio::runtime::Handle;

use crate::{Guarded, Journal};

/// Most content that is fetched or waits for its installation at one time, in bytes.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// Part of [`MEMORY_BYTES_MAX`] that prefetch never uses, in bytes: a fault always finds room.
pub const DEMAND_RESERVE_BYTES: u64 = 16 << 20;

/// Most installer threads by default.
pub const INSTALLERS_MAX: usize = 4;

/// Keeps a duplicate of every userfaultfd in another process.
///
/// When all descriptors of a userfaultfd are closed, missing pages turn into zeros. A guard that
/// outlives the daemon makes the processes block instead.
pub trait Guard: Send + Sync + Debug {
    /// Takes a duplicate. Called for each descriptor before a fault of it is answered: by
    /// [`crate::PageServer::add`], and by the fault thread for a process that was forked while
    /// loading. On return it must be out of this process: the forked one runs, and would see zeros
    /// if this process died.
    ///
    /// # Errors
    ///
    /// The load fails: without a guard the process could see zeros.
    fn keep(&self, process: Guarded, uffd: OwnedFd) -> io::Result<()>;
}

/// How a load is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where fetches run.
    pub runtime: Handle,
    /// Threads that install pages.
    pub installers: usize,
    /// Most content in memory, in bytes; see [`MEMORY_BYTES_MAX`].
    pub memory_bytes_max: u64,
    /// Part of it that is kept for faults, in bytes; see [`DEMAND_RESERVE_BYTES`].
    pub demand_reserve_bytes: u64,
    /// Who keeps duplicates of the descriptors.
    pub guard: Option<Arc<dyn Guard>>,
    /// Where to write down what a successor must know; see [`crate::PageServer::resume`].
    pub journal: Option<Arc<Journal>>,
}

impl Options {
    /// The default: as many installers as processors up to [`INSTALLERS_MAX`], no guard.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            runtime,
            installers: processors.min(INSTALLERS_MAX),
            memory_bytes_max: MEMORY_BYTES_MAX,
            demand_reserve_bytes: DEMAND_RESERVE_BYTES,
            guard: None,
            journal: None,
        }
    }

    /// The same with a guard.
    #[must_use]
    pub fn guarded_by(mut self, guard: Arc<dyn Guard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The same with a journal.
    #[must_use]
    pub fn journaled_in(mut self, journal: Arc<Journal>) -> Self {
        self.journal = Some(journal);
        self
    }
}
