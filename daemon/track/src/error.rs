//! Why tracking failed.

use lifeboat_sys::{
    maps::MapsError,
    pagemap::PagemapError,
    pidfd::{Pidfd, PidfdError},
    remote::InjectError,
    uffd::UffdError,
    vm::VmError,
};

/// Why an address space could not be tracked, or not looked at.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// The process has ended.
    #[error("process {pid} is gone")]
    Gone {
        /// Number of the process.
        pid: i32,
    },
    /// The process executed another program: what was known of its memory is void.
    #[error("process {pid} replaced its address space")]
    Replaced {
        /// Number of the process.
        pid: i32,
    },
    /// The process uses userfaultfd itself.
    #[error("process {pid} uses userfaultfd itself")]
    InUse {
        /// Number of the process.
        pid: i32,
    },
    /// The process could not be made to create a userfaultfd.
    #[error("make a userfaultfd in process {pid}")]
    Inject {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: InjectError,
    },
    /// The kernel does not track writes this way.
    #[error("agree with the kernel on tracking writes of process {pid}")]
    Unsupported {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: UffdError,
    },
    /// The process could not be held on to.
    #[error("keep a descriptor of process {pid}")]
    Process {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: PidfdError,
    },
    /// The mappings could not be read.
    #[error("read the mappings of process {pid}")]
    Maps {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: MapsError,
    },
    /// The memory could not be opened.
    #[error("open the memory of process {pid}")]
    Memory {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: VmError,
    },
    /// The page table could not be looked at.
    #[error("look at the pages of process {pid}")]
    Pagemap {
        /// Number of the process.
        pid: i32,
        /// Why.
        source: PagemapError,
    },
}

impl TrackError {
    /// The address space is gone, with its process or by exec.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Replaced { .. })
    }

    /// Trying again may help: the process is traced, or could not be stopped in time.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Inject { source, .. }
                if source.is_traced_by_others() || matches!(source, InjectError::Deadline { .. })
        )
    }
}

/// Tells the end of a process from that of an address space.
pub(crate) fn pagemap_error(process: &Pidfd, source: PagemapError) -> TrackError {
    let pid = number(process);
    match source {
        PagemapError::Gone { .. } if process.is_alive() => TrackError::Replaced { pid },
        PagemapError::Gone { .. } => TrackError::Gone { pid },
        source => TrackError::Pagemap { pid, source },
    }
}

/// Number of a process.
pub(crate) fn number(process: &Pidfd) -> i32 {
    process.pid().as_raw_nonzero().get()
}
