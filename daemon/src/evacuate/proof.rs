//! The proof before a commit: every page of the frozen tree is in the checkpoint, exactly once.
//!
//! The kernel is asked anew which pages each process has. Each of them must be either in CRIU's
//! images or in a range that Lifeboat captured, and in no case in both. A captured range must lie in
//! mappings that a restore registers with a userfaultfd: elsewhere nobody would notice that its
//! pages are missing. The same holds for each object of shared memory that was hidden from CRIU.

use lifeboat_criu::{
    ImageSet,
    images::{
        ImagesError,
        coverage::{self, CoverageError},
    },
};
use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::{
    pagemap::{Pagemap, PagemapError, Query},
    shmem::ShmemError,
};
use lifeboat_track::Runs;

use super::{
    describe::Found,
    memory::{self, Space},
    objects::Object,
};

/// All that a process of x86-64 can map: 47 bits less the guard page at the end (`TASK_SIZE`). The
/// kernel refuses to look beyond.
const ADDRESS_SPACE: PageRun = PageRun {
    start: PageIndex(0),
    pages: (1 << 35) - 1,
};

/// Why a checkpoint is not whole. The workload runs on.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// CRIU's images cannot be understood.
    #[error("check the image files")]
    Images(#[source] ImagesError),
    /// The kernel did not tell.
    #[error("check the pages of process {pid}")]
    Pagemap {
        /// The process, inside.
        pid: u32,
        /// What went wrong.
        #[source]
        source: PagemapError,
    },
    /// A page is missing, or there twice.
    #[error("the memory of process {pid} (inside) is not captured exactly once")]
    Coverage {
        /// The process, inside.
        pid: u32,
        /// Which page.
        #[source]
        source: CoverageError,
    },
    /// Pages were captured where a restore could not fill them in.
    #[error("captured memory of process {pid} (inside) lies where it cannot be loaded lazily")]
    NotLazy {
        /// The process, inside.
        pid: u32,
        /// Which page.
        #[source]
        source: CoverageError,
    },
    /// Huge pages that could not be restored.
    #[error(
        "process {pid} (inside) has private huge pages (MAP_HUGETLB) at {page}, which cannot be \
         restored: let the program use transparent huge pages, or shared ones"
    )]
    HugePages {
        /// The process, inside.
        pid: u32,
        /// Where they begin.
        page: PageIndex,
    },
    /// The kernel did not tell of shared memory.
    #[error("check the pages of shared memory")]
    Shared(#[source] ShmemError),
    /// A page of shared memory is missing, or there twice.
    #[error("shared object {id} is not captured exactly once")]
    SharedCoverage {
        /// CRIU's identifier.
        id: u64,
        /// Which page.
        #[source]
        source: CoverageError,
    },
    /// An object is not as large as it was when CRIU was told of it.
    #[error("shared object {id} has {now} pages, and had {then}")]
    Resized {
        /// CRIU's identifier.
        id: u64,
        /// Its whole pages.
        now: u64,
        /// What CRIU was told.
        then: u64,
    },
    /// A process has memory that nobody asked about.
    #[error("process {pid} (inside) was dumped without being captured")]
    Missed {
        /// The process, inside.
        pid: u32,
    },
}

/// Checks all processes of the tree.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(images: &ImageSet, found: &Found) -> Result<(), ProofError> {
    for task in images.tasks().map_err(ProofError::Images)? {
        if task.zombie {
            continue;
        }
        let pid = task.pid;
        let space = found.spaces.iter().find(|space| space.inner_pid == pid);
        check_space(images, space.ok_or(ProofError::Missed { pid })?)?;
    }
    let mut objects = found.objects.iter();
    objects.try_for_each(|object| check_object(images, object))
}

/// The kernel is asked anew which pages the object has. Each is in what was read, or in the image
/// that a restore makes the object of; without such an image nobody would fill it.
fn check_object(images: &ImageSet, object: &Object) -> Result<(), ProofError> {
    let id = object.id;
    let (now, then) = (
        object.object.whole_pages().map_err(ProofError::Shared)?,
        object.pages,
    );
    if now != then {
        return Err(ProofError::Resized { id, now, then });
    }
    let criu = images.shared_by_criu(id).map_err(ProofError::Images)?;
    let present = object.object.present().map_err(ProofError::Shared)?;
    coverage::check(&present, &object.present, &criu)
        .map_err(|source| ProofError::SharedCoverage { id, source })
}

fn check_space(images: &ImageSet, space: &Space) -> Result<(), ProofError> {
    let pid = space.inner_pid;
    let mappings = images.mappings(pid).map_err(ProofError::Images)?;
    let lazy: Vec<PageRun> = mappings
        .iter()
        .filter(|mapping| mapping.lazy)
        .map(|mapping| mapping.run)
        .collect();
    coverage::check(&space.captured, &lazy, &[])
        .map_err(|source| ProofError::NotLazy { pid, source })?;
    let number = memory::number(space.pid).map_err(|_| ProofError::Missed { pid })?;
    let pagemap = Pagemap::open(number).map_err(|source| ProofError::Pagemap { pid, source })?;
    let mut present = Vec::new();
    // What is in a captured range is Lifeboat's, present or not: only the rest is asked for.
    let captured: Runs = space.captured.iter().copied().collect();
    for rest in captured.missing(ADDRESS_SPACE) {
        pagemap
            .scan(rest, &Query::DUMPABLE, |region| present.push(region.run))
            .map_err(|source| ProofError::Pagemap { pid, source })?;
    }
    let mut others = images.captured_by_criu(pid).map_err(ProofError::Images)?;
    for mapping in mappings.iter().filter(|mapping| mapping.private_huge) {
        let within = |run: &PageRun| run.start < mapping.run.end() && mapping.run.start < run.end();
        if others.iter().any(within) {
            let page = mapping.run.start;
            return Err(ProofError::HugePages { pid, page });
        }
    }
    // What the kernel may drop at any time, CRIU leaves out.
    let droppable = mappings.iter().filter(|mapping| mapping.droppable);
    others.extend(droppable.map(|mapping| mapping.run));
    coverage::check(&present, &space.captured, &others)
        .map_err(|source| ProofError::Coverage { pid, source })
}
