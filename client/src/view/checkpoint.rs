//! Checkpoints in the store.

use lifeboat_proto::v1::{CheckpointEntry, CheckpointSummary, InspectResponse};
use serde::Serialize;

use super::{save::CodecUseView, timestamp};

/// A checkpoint in a list.
#[derive(Debug, Serialize)]
pub(crate) struct CheckpointView {
    pub(crate) workload: String,
    pub(crate) checkpoint: String,
    pub(crate) frozen_at: Option<String>,
    pub(crate) memory_bytes: u64,
    pub(crate) epoch: u64,
    pub(crate) latest: bool,
}

/// What a checkpoint holds.
#[derive(Debug, Serialize)]
pub(crate) struct InspectView {
    pub(crate) workload: String,
    pub(crate) checkpoint: String,
    pub(crate) frozen_at: Option<String>,
    pub(crate) memory_bytes: u64,
    pub(crate) epoch: u64,
    pub(crate) argv: Vec<String>,
    pub(crate) uid: u32,
    pub(crate) node: String,
    pub(crate) architecture: String,
    pub(crate) criu_version: String,
    pub(crate) kernel_release: String,
    pub(crate) stored_bytes: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) file_bytes: u64,
    pub(crate) codecs: Vec<CodecUseView>,
    pub(crate) packs: Vec<SizedView>,
    pub(crate) address_spaces: Vec<AddressSpaceView>,
    pub(crate) image_files: Vec<SizedView>,
}

/// Something with a name and a size.
#[derive(Debug, Serialize)]
pub(crate) struct SizedView {
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
}

/// Memory of one process.
#[derive(Debug, Serialize)]
pub(crate) struct AddressSpaceView {
    pub(crate) pid: u32,
    pub(crate) pages: u64,
    pub(crate) runs: u64,
}

impl From<CheckpointEntry> for CheckpointView {
    fn from(entry: CheckpointEntry) -> Self {
        let checkpoint = entry.checkpoint.unwrap_or_default();
        Self {
            workload: entry.workload,
            checkpoint: checkpoint.id,
            frozen_at: timestamp(checkpoint.frozen_at),
            memory_bytes: checkpoint.memory_bytes,
            epoch: checkpoint.epoch,
            latest: entry.latest,
        }
    }
}

impl From<InspectResponse> for InspectView {
    fn from(response: InspectResponse) -> Self {
        let summary: CheckpointSummary = response.checkpoint.unwrap_or_default();
        let packs = response.packs.into_iter();
        let files = response.image_files.into_iter();
        let spaces = response.address_spaces.into_iter();
        Self {
            workload: response.workload,
            checkpoint: summary.id,
            frozen_at: timestamp(summary.frozen_at),
            memory_bytes: summary.memory_bytes,
            epoch: summary.epoch,
            argv: response.argv,
            uid: response.uid,
            node: response.node,
            architecture: response.architecture,
            criu_version: response.criu_version,
            kernel_release: response.kernel_release,
            stored_bytes: response.stored_bytes,
            raw_bytes: response.raw_bytes,
            frames: response.frames,
            file_bytes: response.file_bytes,
            codecs: response.codecs.into_iter().map(Into::into).collect(),
            packs: packs
                .map(|pack| SizedView {
                    name: pack.key,
                    size_bytes: pack.size_bytes,
                })
                .collect(),
            address_spaces: spaces
                .map(|space| AddressSpaceView {
                    pid: space.pid,
                    pages: space.pages,
                    runs: space.runs,
                })
                .collect(),
            image_files: files
                .map(|file| SizedView {
                    name: file.name,
                    size_bytes: file.size_bytes,
                })
                .collect(),
        }
    }
}
