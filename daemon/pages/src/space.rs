//! What is to be loaded into one address space: the borders at which outside data is checked.

use lifeboat_format::{frame::FRAME_PAGES_MAX, manifest::AddressSpace, runs::PageRunRef};
use lifeboat_proto::units::{PageIndex, PageRun};

/// Adjacent pages whose contents lie adjacent in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub start: PageIndex,
    /// Number of pages.
    pub pages: u32,
    /// The frame: an index into the manifest's frames.
    pub frame: u32,
    /// Index of the first page inside the frame's content.
    pub frame_page: u32,
}

impl Run {
    /// Its pages.
    #[must_use]
    pub const fn pages(self) -> PageRun {
        PageRun::new(self.start, self.pages as u64)
    }
}

/// One address space as it was at the freeze.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// PID of the process as CRIU names it when it hands over the userfaultfd: inside the
    /// workload's PID namespace.
    pub pid: u32,
    /// Captured pages, ascending and disjoint.
    pub runs: Vec<Run>,
    /// Ranges to load first, hottest first.
    pub hot: Vec<PageRun>,
    /// The mappings that CRIU registers with the userfaultfd. **Whatever page of them no run
    /// mentions is given to the process as zeros**: pages that CRIU keeps in its own images must
    /// be loaded by CRIU, or be among the runs.
    pub lazy: Vec<PageRun>,
    /// Mappings advised `MADV_WIPEONFORK`: a child that is forked while they are still missing
    /// must find zeros there (the kernel's fork event does not tell).
    pub wiped_on_fork: Vec<PageRun>,
}

/// Most pages of one address space: 4 TiB.
pub const SPACE_PAGES_MAX: u64 = 1 << 30;

/// Highest page number that can be given: addresses have 57 bits at most.
const PAGE_INDEX_MAX: u64 = 1 << 45;

/// Why a [`Space`] cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// A run begins before the end of the one before.
    #[error("process {pid}: run {run} is not after the run before it")]
    NotAscending {
        /// The process.
        pid: u32,
        /// Number of the run.
        run: usize,
    },
    /// A run has no pages, too many, or pages that no frame can have.
    #[error("process {pid}: run {run} reaches outside of the address space or of any frame")]
    Outside {
        /// The process.
        pid: u32,
        /// Number of the run.
        run: usize,
    },
    /// More pages than an address space may have.
    #[error("process {pid}: {pages} captured pages are more than {SPACE_PAGES_MAX}")]
    TooLarge {
        /// The process.
        pid: u32,
        /// Captured pages.
        pages: u64,
    },
    /// Two spaces of one process.
    #[error("process {pid} is there twice")]
    Twice {
        /// The process.
        pid: u32,
    },
}

impl From<PageRunRef> for Run {
    fn from(run: PageRunRef) -> Self {
        let PageRunRef {
            run,
            frame,
            frame_page,
        } = run;
        let pages = u32::try_from(run.pages).unwrap_or(u32::MAX);
        Self {
            start: run.start,
            pages,
            frame,
            frame_page,
        }
    }
}

impl Space {
    /// What a manifest says of an address space, of which `lazy` are the mappings that CRIU
    /// registers.
    #[must_use]
    pub fn captured(space: &AddressSpace, lazy: Vec<PageRun>) -> Self {
        Self {
            pid: space.pid,
            runs: space.runs.iter().map(Run::from).collect(),
            hot: space.hot.clone(),
            lazy,
            wiped_on_fork: Vec::new(),
        }
    }

    /// Checks everything that the rest of the crate relies on.
    ///
    /// # Errors
    ///
    /// [`SpaceError`] for the first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpaceError> {
        let pid = self.pid;
        let (mut end, mut pages) = (0, 0);
        for (at, run) in self.runs.iter().enumerate() {
            let last = run.start.0.saturating_add(u64::from(run.pages));
            let in_frame = u64::from(run.frame_page) + u64::from(run.pages);
            if run.pages == 0 || last > PAGE_INDEX_MAX || in_frame > FRAME_PAGES_MAX as u64 {
                return Err(SpaceError::Outside { pid, run: at });
            }
            if run.start.0 < end {
                return Err(SpaceError::NotAscending { pid, run: at });
            }
            end = last;
            pages += u64::from(run.pages);
        }
        if pages > SPACE_PAGES_MAX {
            return Err(SpaceError::TooLarge { pid, pages });
        }
        Ok(())
    }
}
