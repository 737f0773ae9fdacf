//! Manifests: everything that is needed to restore one checkpoint.
//!
//! [`Manifest::decode`] is where hostile bytes become values that the rest of the product may rely
//! on: every index is in range, every run fits inside its frame, every frame inside its pack, every
//! size adds up, every name is plain (see `check`). [`Manifest::encode`] applies the same checks, so
//! that what was written can be read.

mod check;
mod columns;
mod prune;
mod wire;

use bytes::Bytes;
use lifeboat_proto::{
    id::{CheckpointId, Epoch, PackId, WorkloadName},
    image,
    units::PageRun,
};
use prost::Message as _;

use crate::{
    envelope::{self, Kind},
    error::{FormatError, Object},
    frame::FrameRef,
    limits::{self, FieldLimit},
    runs::PageRuns,
    seal::{Digest, Seal},
};

pub use check::{
    ADDRESS_SPACES_MAX, FRAMES_MAX, IMAGE_FILES_MAX, PACKS_MAX, PATHS_MAX, RANGES_MAX,
    SHARED_MEMORY_MAX, TEXT_BYTES_MAX, TEXTS_MAX,
};

/// Largest manifest before compression, in bytes: about 1 TiB of scattered memory.
pub const MANIFEST_BYTES_MAX: u64 = 512 << 20;

/// Most bytes of all facts about a machine, and of all texts about a workload.
const TEXTS_BYTES_MAX: usize = 8 << 20;

/// What is checked before parsing. The rest is bounded by [`MANIFEST_BYTES_MAX`]: an entry of a
/// column takes at least one byte there and at most 8 in memory.
const LIMITS: &[FieldLimit] = &[
    FieldLimit::each(5, "platform", 1, TEXTS_BYTES_MAX),
    FieldLimit::each(6, "spec", 1, TEXTS_BYTES_MAX),
    FieldLimit::times(7, "packs", PACKS_MAX),
    FieldLimit::times(9, "address_spaces", ADDRESS_SPACES_MAX),
    FieldLimit::times(10, "image_files", IMAGE_FILES_MAX),
    FieldLimit::times(15, "shared_memory", SHARED_MEMORY_MAX),
];

const KIND: Kind = Kind {
    object: Object::Manifest,
    magic: b"LBMANIF1",
    content_bytes_max: MANIFEST_BYTES_MAX,
};

/// Everything that is needed to restore one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The workload.
    pub workload: WorkloadName,
    /// The epoch under which it was committed.
    pub epoch: Epoch,
    /// Unix time of the freeze, in nanoseconds. For people.
    pub frozen_at_unix_ns: u64,
    /// What the restoring machine must be like.
    pub platform: Platform,
    /// How the workload was started, and what it may have when it is restored.
    pub spec: WorkloadSpec,
    /// The packs that hold the frames.
    pub packs: Vec<PackRef>,
    /// The frames.
    pub frames: Vec<FrameRef>,
    /// Memory captured by Lifeboat itself.
    pub address_spaces: Vec<AddressSpace>,
    /// Image files written by CRIU.
    pub image_files: Vec<ImageFile>,
    /// The workload's files, as one stream.
    pub files: Option<FileArchive>,
    /// PID of the workload's first process inside its PID namespace.
    pub root_pid: u32,
    /// Memory of all processes at the freeze, in bytes.
    pub memory_bytes: u64,
    /// The checkpoint that this one followed, if any.
    pub parent: Option<CheckpointId>,
    /// Objects of shared memory captured by Lifeboat itself.
    pub shared_memory: Vec<SharedMemory>,
}

/// Facts about the machine that a checkpoint depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Machine architecture as uname(2) names it.
    pub architecture: String,
    /// Version of CRIU that wrote the image files.
    pub criu_version: String,
    /// Release of the kernel, for people.
    pub kernel_release: String,
    /// Size of a page, in bytes.
    pub page_size: u32,
    /// CPU features that the workload may have come to rely on.
    pub cpu_features: Vec<String>,
    /// Name of the node that wrote the checkpoint, for people.
    pub node: String,
}

/// What the workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSpec {
    /// The command and its arguments. Empty for a tree that was attached to.
    pub argv: Vec<String>,
    /// Working directory at the start.
    pub working_directory: String,
    /// User id that owns the workload.
    pub uid: u32,
    /// Group id that owns the workload.
    pub gid: u32,
    /// Paths that travel with a checkpoint.
    pub preserve: Vec<String>,
    /// What happens to established TCP connections.
    pub tcp: TcpPolicy,
    /// Whether the workload runs under a terminal made by the hold.
    pub terminal: bool,
    /// The pipes between hold and workload.
    pub streams: Vec<StreamPipe>,
}

/// What happens to established TCP connections at a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TcpPolicy {
    /// Connections are closed; peers see a reset.
    #[default]
    Close,
    /// Connections are kept; the restoring machine must have the same address.
    Keep,
}

/// A pipe between the hold and the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamPipe {
    /// What it carries.
    pub stream: Stream,
    /// Its inode at the freeze.
    pub inode: u64,
}

/// The streams that a hold carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard input of the workload.
    Stdin,
    /// Standard output of the workload.
    Stdout,
    /// Standard error of the workload.
    Stderr,
    /// Control of the terminal relay.
    TerminalControl,
}

/// A pack that a manifest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackRef {
    /// The pack.
    pub id: PackId,
    /// Size of the object, in bytes.
    pub size_bytes: u64,
}

/// Memory of one address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// PID of the (first) process inside the workload's PID namespace.
    pub pid: u32,
    /// Where its pages are stored. A captured page without a run was zero.
    pub runs: PageRuns,
    /// Pages to fetch first, hottest first.
    pub hot: Vec<PageRun>,
    /// Mappings that Lifeboat captured: ascending, disjoint. All runs lie inside.
    pub captured: Vec<PageRun>,
}

/// One object of shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// CRIU's identifier of the object.
    pub id: u64,
    /// Where its pages are stored, counted from its beginning. A page without a run was zero.
    pub runs: PageRuns,
    /// Its size, in pages.
    pub pages: u64,
}

/// One image file of CRIU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name: never a path.
    pub name: String,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its content: the frames' contents, one after the other.
    pub frames: Vec<u32>,
}

/// The workload's files, as one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileArchive {
    /// Size of the stream, in bytes.
    pub size_bytes: u64,
    /// Its content: the frames' contents, one after the other.
    pub frames: Vec<u32>,
}

impl Manifest {
    /// The bytes to store, and the digest to put into the head.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] for a manifest that a reader would refuse.
    pub fn encode(&self, seal: &Seal) -> Result<(Bytes, Digest), FormatError> {
        self.check()?;
        let content = wire::message(self).encode_to_vec();
        limits::check(Object::Manifest, &content, LIMITS)?;
        envelope::wrap(KIND, &content, seal)
    }

    /// The manifest from bytes of a store, and their digest, to be compared with the head's.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8], seal: &Seal) -> Result<(Self, Digest), FormatError> {
        let (content, digest) = envelope::unwrap(KIND, bytes, seal)?;
        limits::check(Object::Manifest, &content, LIMITS)?;
        let message =
            image::Manifest::decode(content).map_err(|source| FormatError::Malformed {
                object: Object::Manifest,
                source,
            })?;
        let manifest = wire::manifest(message)?;
        manifest.check()?;
        Ok((manifest, digest))
    }
}
