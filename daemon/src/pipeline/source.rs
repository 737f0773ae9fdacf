//! Where pages are read.

use std::sync::Arc;

use lifeboat_format::owner::FrameOwner;
use lifeboat_proto::units::PageRun;
use lifeboat_sys::{
    shmem::{ObjectKey, SharedObject},
    vm::RemoteMemory,
};

use super::PipelineError;

/// Where pages are read.
#[derive(Clone, Debug)]
pub enum Source {
    /// The memory of a process.
    Process {
        /// Its number inside, for errors and for the packs.
        pid: u32,
        /// The memory.
        memory: Arc<RemoteMemory>,
    },
    /// An object of shared memory; pages count from its beginning.
    Object {
        /// CRIU's identifier of it.
        id: u64,
        /// The object.
        object: Arc<SharedObject>,
    },
}

impl Source {
    /// An object of shared memory.
    pub(crate) fn of_object(object: &Arc<SharedObject>) -> Self {
        Self::Object {
            id: criu_id(object.key()),
            object: Arc::clone(object),
        }
    }

    /// Reads `runs` into `buffer`, which has their size.
    ///
    /// # Errors
    /// [`PipelineError::Read`] or [`PipelineError::ReadObject`].
    pub(crate) fn read(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), PipelineError> {
        match self {
            Self::Process { pid, memory } => memory
                .read_runs(runs, buffer)
                .map_err(|source| PipelineError::Read { pid: *pid, source }),
            Self::Object { object, .. } => object
                .read_runs(runs, buffer)
                .map_err(PipelineError::ReadObject),
        }
    }

    /// What a pack says of a frame with these pages.
    pub(super) fn owner(&self, runs: Vec<PageRun>) -> FrameOwner {
        match self {
            Self::Process { pid, .. } => FrameOwner::Memory { pid: *pid, runs },
            Self::Object { id, .. } => FrameOwner::SharedMemory { id: *id, runs },
        }
    }
}

/// CRIU's identifier of an object: its image files are named after it.
pub(crate) fn criu_id(key: ObjectKey) -> u64 {
    // As CRIU cuts it.
    key.inode & u64::from(u32::MAX)
}
