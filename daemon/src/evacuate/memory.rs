//! What Lifeboat captures itself: private anonymous memory of each process.
//!
//! CRIU is left with what it must see: executable mappings (it patches an instruction there while
//! the process makes system calls for it), locked memory (which a lazy restore cannot leave out),
//! stacks, the vdso, file mappings and shared memory.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use lifeboat_proto::units::PageRun;
use lifeboat_sys::{
    maps::{self, Mapping, MapsError},
    pagemap::{Pagemap, PagemapError, Query},
    shmem::ShmemError,
    vm::{RemoteMemory, VmError},
};

use lifeboat_pages::Run;
use lifeboat_track::SpaceId;
use rustix::process::Pid;

use super::base::Loading;
use crate::{
    observe::chain,
    pipeline::{Intake, Memory, PipelineError, Source},
    precopy::{self, Delta, Freeze, SharedAhead},
    workload::tree::{self, TreeError},
};

/// Whose memory something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A process's, by its number inside.
    Process(u32),
    /// That of an object of shared memory, by CRIU's identifier.
    Object(u64),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid} (inside)"),
            Self::Object(id) => write!(f, "shared object {id}"),
        }
    }
}

/// Why memory cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The tree cannot be listed.
    #[error("list the processes of the frozen tree")]
    Tree(#[source] TreeError),
    /// CRIU speaks of a process that is not in the tree.
    #[error("process {pid} (inside) is not in the frozen tree")]
    Unknown {
        /// The process, in its own PID namespace.
        pid: u32,
    },
    /// A process was forked while its memory was still being loaded.
    #[error("process {pid} (inside) was forked while its memory is still being loaded")]
    Forked {
        /// The process, in its own PID namespace.
        pid: u32,
    },
    /// The mappings cannot be read.
    #[error("read the mappings of process {pid}")]
    Maps {
        /// The process.
        pid: u32,
        /// What went wrong.
        #[source]
        source: MapsError,
    },
    /// The page map cannot be read.
    #[error("find the pages of process {pid}")]
    Pagemap {
        /// The process.
        pid: u32,
        /// What went wrong.
        #[source]
        source: PagemapError,
    },
    /// Objects of shared memory cannot be looked at.
    #[error("find the shared memory of the frozen tree")]
    Shared(#[source] ShmemError),
    /// The memory cannot be opened.
    #[error("open the memory of process {pid}")]
    Memory {
        /// The process.
        pid: u32,
        /// What went wrong.
        #[source]
        source: VmError,
    },
    /// The pipeline has stopped.
    #[error("hand memory to the pipeline")]
    Pipeline(#[source] PipelineError),
    /// The capture has ended.
    #[error("the capture has ended")]
    Closed,
    /// Too many image files.
    #[error("the checkpoint has too many streams")]
    TooManyStreams,
    /// Files of the workload could not be read or written.
    #[error("move the workload's files: {message}")]
    Files {
        /// What went wrong.
        message: String,
    },
    /// A system call of the daemon's failed.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The part of an address space that Lifeboat captures.
#[derive(Clone, Debug)]
pub(super) struct Hidden {
    /// PID in the daemon's PID namespace.
    pid: u32,
    /// PID inside.
    inner_pid: u32,
    /// Captured mappings, ascending and disjoint: CRIU does not see their pages.
    pub captured: Vec<PageRun>,
    /// Pages whose content is still in the store, after a restore.
    missing: Vec<Run>,
}

/// What there is in the part of an address space that Lifeboat captures.
#[derive(Clone, Debug)]
pub struct Space {
    /// PID in the daemon's PID namespace.
    pub pid: u32,
    /// PID inside.
    pub inner_pid: u32,
    /// Captured mappings, ascending and disjoint: CRIU does not see their pages.
    pub captured: Vec<PageRun>,
    /// Pages with content in them.
    pub present: Vec<PageRun>,
    /// Those of them that are read now.
    pub read: Vec<PageRun>,
    /// Its books, in which the rest is.
    pub books: Option<SpaceId>,
    /// Whether what is read is compared with what is stored.
    compare: bool,
    /// Pages whose content is still in the store, after a restore.
    pub missing: Vec<Run>,
    /// The memory.
    pub(super) memory: Arc<RemoteMemory>,
}

/// PIDs of the tree, by the numbers inside.
pub(super) fn pids(root: u32) -> Result<BTreeMap<u32, u32>, CaptureError> {
    tree::by_inner_pid(root).map_err(CaptureError::Tree)
}

/// Finds what is to be captured of a frozen process. `listing` is what CRIU was told of its mappings
/// and their flags, if that was known.
pub(super) fn find(
    pid: u32,
    inner_pid: u32,
    listing: Option<&[u8]>,
    loading: Option<&Loading>,
) -> Result<Hidden, CaptureError> {
    // Before the pages are looked at: one that is loaded in between is in both lists, not in none.
    let missing = match loading {
        None => Vec::new(),
        Some(loading) => loading
            .missing(inner_pid)
            .ok_or(CaptureError::Forked { pid: inner_pid })?,
    };
    let process = number(pid)?;
    // Reading the listing with flags walks all page tables; CRIU has done so too then.
    let mappings = match listing {
        Some(text) => maps::parse(text),
        None => maps::read_with_flags(process),
    }
    .map_err(|source| CaptureError::Maps { pid, source })?;
    let mut captured: Vec<PageRun> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| is_captured(mapping)) {
        match captured.last_mut() {
            Some(last) if last.end() == mapping.run.start => last.pages += mapping.run.pages,
            _ => captured.push(mapping.run),
        }
    }
    Ok(Hidden {
        pid,
        inner_pid,
        captured,
        missing,
    })
}

impl Hidden {
    /// Looks which of the pages hold something, and which of those must be read. Blocks.
    fn look(self, books: Option<&(SharedAhead, Freeze)>) -> Result<Space, CaptureError> {
        let (pid, process) = (self.pid, number(self.pid)?);
        let delta = books.and_then(|(ahead, freeze)| delta(ahead, *freeze, pid, &self.captured));
        let (present, read, books, compare) = match delta {
            Some(delta) => (delta.present, delta.read, Some(delta.space), delta.compare),
            None => {
                let present = present(pid, process, &self.captured)?;
                (present.clone(), present, None, false)
            }
        };
        let memory =
            RemoteMemory::open(process).map_err(|source| CaptureError::Memory { pid, source })?;
        Ok(Space {
            pid,
            inner_pid: self.inner_pid,
            captured: self.captured,
            present,
            read,
            books,
            compare,
            missing: self.missing,
            memory: Arc::new(memory),
        })
    }
}

/// What is to be read of a process that has books. Without them all of it is.
fn delta(ahead: &SharedAhead, freeze: Freeze, pid: u32, captured: &[PageRun]) -> Option<Delta> {
    precopy::lock(ahead)
        .delta(freeze, pid, captured)
        .unwrap_or_else(|error| {
            let error = chain(&error);
            tracing::warn!(pid, error, "what was copied ahead of time is not used");
            None
        })
}

/// The pages of a process that hold something.
fn present(pid: u32, process: Pid, captured: &[PageRun]) -> Result<Vec<PageRun>, CaptureError> {
    let fail = |source| CaptureError::Pagemap { pid, source };
    let pagemap = Pagemap::open(process).map_err(fail)?;
    let mut present = Vec::new();
    for run in captured {
        pagemap
            .scan(*run, &Query::DUMPABLE, |region| present.push(region.run))
            .map_err(fail)?;
    }
    Ok(present)
}

/// A PID as the kernel's interfaces take it.
pub(super) fn number(pid: u32) -> Result<Pid, CaptureError> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(CaptureError::Unknown { pid })
}

/// Whether Lifeboat captures a mapping: private, anonymous, not executable, not a stack, and nothing
/// that a restore could not load lazily.
fn is_captured(mapping: &Mapping) -> bool {
    mapping.is_private_anonymous()
        && !mapping.permissions.execute
        && !mapping.name.starts_with(b"[stack")
        && mapping.can_be_lazy() == Some(true)
}

/// Looks what is in a space, and hands what must be read of it to the pipeline, a frame at a time.
pub(super) async fn feed(
    index: usize,
    hidden: Hidden,
    books: Option<(SharedAhead, Freeze)>,
    intake: Intake,
) -> Result<Space, CaptureError> {
    let ahead = books.as_ref().map(|(ahead, _)| Arc::clone(ahead));
    let look = tokio::task::spawn_blocking(move || hidden.look(books.as_ref()));
    let space = look.await.map_err(|_| CaptureError::Closed)??;
    let memory = Memory {
        space: index,
        source: &Source::Process {
            pid: space.inner_pid,
            memory: Arc::clone(&space.memory),
        },
        runs: &space.read,
        may_vanish: false,
    };
    let books = ahead.as_ref().zip(space.books).filter(|_| space.compare);
    let known = books.map(|(ahead, id)| move |page| precopy::lock(ahead).hash(id, page));
    let fed = memory.feed(&intake, known).await;
    fed.map_err(CaptureError::Pipeline)?;
    Ok(space)
}
