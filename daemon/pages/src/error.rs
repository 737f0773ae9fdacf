//! How a load fails.

use std::{io, sync::Arc, time::Duration};

use lifeboat_proto::units::PageRun;

use crate::{FetchError, SpaceError};

/// Why a load could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was to be loaded is not well-formed.
    #[error("the index of captured memory")]
    Space(#[source] SpaceError),
    /// The kernel refused what the server itself needs.
    #[error("{step} of the page-fault server")]
    Kernel {
        /// What was attempted.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a userfaultfd was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// No [`crate::Space`] has this PID.
    #[error("process {pid} is not among the processes to be loaded")]
    Unknown {
        /// The PID that came with the descriptor.
        pid: u32,
    },
    /// The process was added before.
    #[error("process {pid} was handed over twice")]
    Twice {
        /// The PID that came with the descriptor.
        pid: u32,
    },
    /// The load has ended already.
    #[error("process {pid} was handed over after the load had ended")]
    Ended {
        /// The PID that came with the descriptor.
        pid: u32,
    },
    /// The kernel or the guard refused it.
    #[error("{step} for process {pid}")]
    Kernel {
        /// The process.
        pid: u32,
        /// What was attempted.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a load failed. The processes must be killed; the checkpoint is intact.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Frames cannot be had.
    #[error("fetching memory")]
    Fetch(#[source] Arc<FetchError>),
    /// A source answered with other than what was asked for: a fault of this program.
    #[error("the source answered with {found} frames in place of {asked}")]
    Answer {
        /// Frames asked for.
        asked: usize,
        /// Frames that came.
        found: usize,
    },
    /// A frame is shorter than the index says.
    #[error("frame {frame} has {found} pages, the index names {needed}")]
    FrameTooShort {
        /// The frame.
        frame: u32,
        /// Pages of its content.
        found: usize,
        /// Pages that the index needs.
        needed: usize,
    },
    /// Captured pages do not lie in a mapping that waits for them: giving up on them would make
    /// them zeros.
    #[error("pages {run} of {process} were captured, but their mapping takes no pages")]
    Unmapped {
        /// The process.
        process: String,
        /// The pages.
        run: PageRun,
    },
    /// The kernel refused to install pages.
    #[error("installing pages {run} of {process}")]
    Install {
        /// The process.
        process: String,
        /// The pages.
        run: PageRun,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// The kernel says "try again" for too long.
    #[error("the address space of {process} has not come to rest for {waited:?}")]
    Restless {
        /// The process.
        process: String,
        /// How long.
        waited: Duration,
    },
    /// A descriptor could not be read, or guarded.
    #[error("{step} for {process}")]
    Kernel {
        /// The process.
        process: String,
        /// What was attempted.
        step: &'static str,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// A process with captured memory was never handed over.
    #[error("process {pid} has captured memory, but was not handed over")]
    NotHandedOver {
        /// The process.
        pid: u32,
    },
    /// A part of the server panicked.
    #[error("the {who} of the page-fault server panicked")]
    Panicked {
        /// Which part.
        who: &'static str,
    },
    /// [`crate::PageServer::abort`] was called, or the server was dropped.
    #[error("the load was given up")]
    Aborted,
}

/// An error with all its causes on one line, for logs.
pub(crate) struct Chain<'error>(pub(crate) &'error (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
