//! Why tracking failed.

use lifeboat_sys::{
    maps::MapsError, pagemap::PagemapError, pidfd::PidfdError, remote::InjectError, uffd::UffdError,
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
}
