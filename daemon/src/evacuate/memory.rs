//! What Lifeboat captures itself: private anonymous memory of each process.
//!
//! CRIU is left with what it must see: executable mappings (it patches an instruction there while
//! the process makes system calls for it), locked memory (which a lazy restore cannot leave out),
//! stacks, the vdso, file mappings and shared memory.

use std::{collections::BTreeMap, io, sync::Arc};

use lifeboat_format::frame::FRAME_PAGES_MAX;
use lifeboat_proto::units::PageRun;
use lifeboat_sys::{
    maps::{self, Mapping, MapsError},
    pagemap::{Pagemap, PagemapError, Query},
    vm::{RemoteMemory, VmError},
};

use rustix::process::Pid;

use lifeboat_pages::Run;

use super::{
    base::Loading,
    pipeline::{Intake, Job, PipelineError},
};
use crate::workload::tree::{self, TreeError};

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
pub struct Space {
    /// PID in the daemon's PID namespace.
    pub pid: u32,
    /// PID inside.
    pub inner_pid: u32,
    /// Captured mappings, ascending and disjoint: CRIU does not see their pages.
    pub captured: Vec<PageRun>,
    /// Pages with content in them.
    pub present: Vec<PageRun>,
    /// Pages whose content is still in the store, after a restore.
    pub missing: Vec<Run>,
    memory: Arc<RemoteMemory>,
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
) -> Result<Space, CaptureError> {
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
    let fail = |source| CaptureError::Pagemap { pid, source };
    let pagemap = Pagemap::open(process).map_err(fail)?;
    let mut present = Vec::new();
    for run in &captured {
        pagemap
            .scan(*run, &Query::DUMPABLE, |region| present.push(region.run))
            .map_err(fail)?;
    }
    let memory =
        RemoteMemory::open(process).map_err(|source| CaptureError::Memory { pid, source })?;
    Ok(Space {
        pid,
        inner_pid,
        captured,
        present,
        missing,
        memory: Arc::new(memory),
    })
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

/// Hands the present pages of a space to the pipeline, a frame at a time.
pub(super) async fn feed(index: usize, space: Space, intake: Intake) -> Result<(), CaptureError> {
    let mut frame: Vec<PageRun> = Vec::new();
    let mut pages = 0;
    for run in &space.present {
        let mut rest = *run;
        while !rest.is_empty() {
            let taken = rest.pages.min(FRAME_PAGES_MAX as u64 - pages);
            frame.push(PageRun::new(rest.start, taken));
            rest = PageRun::new(rest.start + taken, rest.pages - taken);
            pages += taken;
            if pages == FRAME_PAGES_MAX as u64 {
                push(index, &space, std::mem::take(&mut frame), &intake).await?;
                pages = 0;
            }
        }
    }
    if !frame.is_empty() {
        push(index, &space, frame, &intake).await?;
    }
    Ok(())
}

async fn push(
    index: usize,
    space: &Space,
    runs: Vec<PageRun>,
    intake: &Intake,
) -> Result<(), CaptureError> {
    let job = Job::Memory {
        space: index,
        pid: space.inner_pid,
        memory: Arc::clone(&space.memory),
        runs,
    };
    intake.push(job).await.map_err(CaptureError::Pipeline)
}
