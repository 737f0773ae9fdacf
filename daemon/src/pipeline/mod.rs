//! Read → encode → pack → upload, joined by bounded queues of owned buffers. Pre-copy and saves
//! both work through it.
//!
//! Guarantees:
//! - Memory is bounded whatever the size of the workload: see [`QUEUED_JOBS`], [`QUEUED_FRAMES`],
//!   [`Buffers`] and the number of uploads.
//! - [`Pipeline::finish`] returns only when the store has acknowledged every pack.
//! - The first failure stops everything: later calls return [`PipelineError::Stopped`], and
//!   [`Pipeline::finish`] returns the failure itself. Packs that were uploaded before are garbage for
//!   `lifeboat gc`.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use async_channel::{Receiver, Sender};
use bytes::Bytes;
use lifeboat_format::{
    FormatError,
    codec::{Codec, Effort},
    frame::FrameRef,
    manifest::PackRef,
    owner::FrameOwner,
    pack::PackOrigin,
    runs::PageRunRef,
    seal::{Digest, Seal},
};
use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_store::{Call, Store, StoreError};
use lifeboat_sys::{shmem::ShmemError, vm::VmError};
use lifeboat_track::ContentHash;
use tokio_util::task::AbortOnDropHandle;

use self::choose::Chooser;

mod choose;
mod clock;
mod encode;
mod feed;
mod link;
mod pack;
mod rates;
mod read;
mod source;
mod upload;

pub use choose::{CodecFigures, CodecUse};
pub use feed::Memory;
pub use link::LinkRate;
pub use rates::{LINK_UNKNOWN, Rates, Snapshot};
pub use read::Buffers;
pub use source::Source;
pub(crate) use source::criu_id;

/// Jobs waiting to be read and encoded. A memory job is a list of runs, no data; a stream job holds
/// at most one frame's content.
pub(super) const QUEUED_JOBS: usize = 32;

/// Encoded frames waiting to be packed.
pub(super) const QUEUED_FRAMES: usize = 64;

/// Packs waiting to be uploaded.
pub(super) const QUEUED_PACKS: usize = 1;

/// Why a pipeline failed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Memory of the workload could not be read.
    #[error("read memory of process {pid}")]
    Read {
        /// The process, in its own PID namespace.
        pid: u32,
        /// What the kernel said.
        #[source]
        source: VmError,
    },
    /// Shared memory of the workload could not be read.
    #[error("read memory that is shared")]
    ReadObject(#[source] ShmemError),
    /// A frame does not fit the format.
    #[error("put a frame into a pack")]
    Pack(#[source] FormatError),
    /// The store did not take a pack.
    #[error("upload a pack")]
    Upload(#[source] StoreError),
    /// A pack's key is not one.
    #[error("name a pack: {reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] io::Error),
    /// A thread ended by a panic.
    #[error("a {stage} thread panicked")]
    Panic {
        /// Which.
        stage: &'static str,
    },
    /// Something failed before; [`Pipeline::finish`] tells what.
    #[error("the capture was stopped by an earlier failure")]
    Stopped,
}

/// What is to be stored.
#[derive(Debug)]
pub enum Job {
    /// Pages of a process or an object, at most one frame.
    Memory {
        /// Index of the address space.
        space: usize,
        /// Where to read.
        source: Source,
        /// The pages.
        runs: Vec<PageRun>,
        /// What is stored of each of the pages already. With it, pages that hold just that are left
        /// out, and the hashes of the others are told. `None`: nothing is compared.
        known: Option<Vec<Option<ContentHash>>>,
        /// The process runs: what cannot be read is told, and is no failure.
        may_vanish: bool,
    },
    /// The next piece of a stream, at most one frame.
    Stream {
        /// Index of the stream.
        stream: usize,
        /// Place in the stream.
        sequence: u32,
        /// What the piece is.
        owner: FrameOwner,
        /// The piece.
        content: Bytes,
    },
}

/// An encoded frame on its way into a pack.
#[derive(Debug)]
pub(super) struct Encoded {
    pub target: Target,
    pub owner: FrameOwner,
    pub payload: Vec<u8>,
    pub codec: Codec,
    pub digest: Digest,
    pub raw_bytes: usize,
}

/// Where a frame is entered in the books.
#[derive(Debug)]
pub(super) enum Target {
    Space {
        space: usize,
        runs: Vec<PageRun>,
        /// Of each page, if they were asked for.
        hashes: Vec<ContentHash>,
    },
    Stream {
        stream: usize,
        sequence: u32,
    },
}

/// Everything that was captured, after its upload.
#[derive(Debug, Default)]
pub struct Captured {
    /// The packs.
    pub packs: Vec<PackRef>,
    /// The frames.
    pub frames: Vec<FrameRef>,
    /// Runs of each address space that has any, ascending.
    pub spaces: BTreeMap<usize, Vec<PageRunRef>>,
    /// Frames of each stream that has any, in order.
    pub streams: BTreeMap<usize, Vec<u32>>,
    /// Hashes of what is in the runs of each address space, where they were asked for.
    pub hashes: BTreeMap<usize, Vec<(PageIndex, ContentHash)>>,
    /// What was read, and is in no frame.
    pub left_out: LeftOut,
}

/// Pages that were handed over, and that no frame holds.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// They hold zeros.
    pub zero: Vec<(usize, PageRun)>,
    /// They could not be read.
    pub lost: Vec<(usize, PageRun)>,
    /// Number of those that hold what is stored of them already.
    pub same_pages: u64,
}

/// Figures of a pipeline, while it runs and after.
#[derive(Debug, Default)]
pub struct Figures {
    /// Bytes of memory that are known to be read, or were.
    pub announced_bytes: AtomicU64,
    /// Bytes read from the workload's memory.
    pub read_bytes: AtomicU64,
    /// Those of them whose turn to be encoded has come.
    pub taken_bytes: AtomicU64,
    /// Bytes of frames that were encoded, as they are stored.
    pub encoded_bytes: AtomicU64,
    /// Frames by codec.
    pub codecs: CodecFigures,
    /// Bytes acknowledged by the store.
    pub uploaded_bytes: AtomicU64,
    /// When the last byte of memory was read, in microseconds after the pipeline's start.
    pub last_read_us: AtomicU64,
}

/// What a pipeline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Memory is copied ahead of time: small is better than soon, and the threads stand back when the
    /// processors are busy.
    Ahead,
    /// Memory is copied as fast as it goes; the program runs.
    Soon,
    /// The program is frozen, and stands until all is read.
    Frozen,
}

/// How a pipeline works.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Threads that read and encode.
    pub threads: usize,
    /// Packs in flight at once.
    pub uploads: usize,
    /// Work that goes into compression; `None`: it is chosen for each frame by what is measured.
    pub effort: Option<Effort>,
    /// What it is for.
    pub purpose: Purpose,
    /// What is measured.
    pub rates: Arc<Rates>,
    /// Where memory of somebody who stands still is put until it is encoded. `None`: it is encoded as
    /// soon as it is read.
    pub buffers: Option<Buffers>,
    /// Authenticates frames.
    pub seal: Arc<Seal>,
    /// What the packs say of their origin.
    pub origin: PackOrigin,
    /// When the uploads must be done.
    pub call: Call,
}

/// The first failure, and who is to be told.
#[derive(Debug, Default)]
pub(super) struct Failure(Mutex<Option<PipelineError>>);

impl Failure {
    /// Keeps the first failure.
    pub(super) fn set(&self, error: PipelineError) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
    }

    fn take(&self) -> Option<PipelineError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn is_set(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

/// A running pipeline. Dropped before its end it sends nothing more: what is on its way is called off.
#[derive(Debug)]
pub struct Pipeline {
    jobs: Sender<read::Unread>,
    unread: read::Count,
    figures: Arc<Figures>,
    failure: Arc<Failure>,
    started: Instant,
    encoders: Vec<thread::JoinHandle<LeftOut>>,
    packer: thread::JoinHandle<pack::Packed>,
    uploader: AbortOnDropHandle<()>,
}

/// Gives jobs to a pipeline.
#[derive(Clone, Debug)]
pub struct Intake {
    jobs: Sender<read::Unread>,
    token: Option<read::Token>,
    figures: Arc<Figures>,
}

impl Intake {
    /// Says how much memory is going to be handed over.
    fn announce(&self, bytes: u64) {
        let announced = &self.figures.announced_bytes;
        announced.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Hands a job over; waits while the pipeline is full.
    ///
    /// # Errors
    /// When the pipeline was stopped.
    pub async fn push(&self, job: Job) -> Result<(), PipelineError> {
        let job = read::Unread::new(job, &self.token);
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| PipelineError::Stopped)
    }
}

impl Pipeline {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(store: Arc<dyn Store>, options: &PipelineOptions) -> Result<Self, PipelineError> {
        let started = Instant::now();
        let (jobs, jobs_out) = async_channel::bounded(QUEUED_JOBS);
        let (frames, frames_out) = async_channel::bounded(QUEUED_FRAMES);
        let (packs, packs_out) = async_channel::bounded(QUEUED_PACKS);
        let figures = Arc::new(Figures::default());
        let failure = Arc::new(Failure::default());
        let chooser = Arc::new(Chooser::new(options, Arc::clone(&figures)));
        let shelf = Arc::new(read::Shelf::default());
        let encoders = (0..options.threads)
            .map(|index| {
                let encoder = encode::Stage {
                    reader: read::Reader {
                        jobs: Receiver::clone(&jobs_out),
                        shelf: Arc::clone(&shelf),
                        buffers: options.buffers.clone(),
                        figures: Arc::clone(&figures),
                        started,
                    },
                    frames: Sender::clone(&frames),
                    failure: Arc::clone(&failure),
                    chooser: Arc::clone(&chooser),
                    seal: Arc::clone(&options.seal),
                };
                thread::Builder::new()
                    .name(format!("encode-{index}"))
                    .spawn(move || encoder.run())
                    .map_err(PipelineError::Thread)
            })
            .collect::<Result<Vec<_>, _>>()?;
        drop((frames, jobs_out));
        let stage = pack::Stage {
            frames: frames_out,
            packs,
            failure: Arc::clone(&failure),
            rates: Arc::clone(&options.rates),
            origin: options.origin.clone(),
            seal: Arc::clone(&options.seal),
        };
        let packer = thread::Builder::new()
            .name("pack".to_owned())
            .spawn(move || stage.run())
            .map_err(PipelineError::Thread)?;
        let stage = upload::Stage {
            packs: packs_out,
            store,
            at_once: options.uploads,
            call: options.call,
            rates: Arc::clone(&options.rates),
            figures: Arc::clone(&figures),
            failure: Arc::clone(&failure),
        };
        let uploader = AbortOnDropHandle::new(tokio::spawn(stage.run()));
        Ok(Self {
            jobs,
            unread: read::Count::default(),
            figures,
            failure,
            started,
            encoders,
            packer,
            uploader,
        })
    }

    /// Where jobs go. All intakes must be dropped before [`Pipeline::finish`] can end.
    #[must_use]
    pub fn intake(&self) -> Intake {
        Intake {
            jobs: Sender::clone(&self.jobs),
            figures: Arc::clone(&self.figures),
            token: self.unread.token(),
        }
    }

    /// The figures so far.
    #[must_use]
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// When the pipeline was started.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Waits until everything that was handed over was read, or will not be since something failed:
    /// the workload's memory is not needed any more. All intakes must be dropped before this can
    /// end. Failures are told by [`Pipeline::finish`].
    pub async fn finish_reading(&mut self) {
        self.jobs.close();
        self.unread.none().await;
    }

    /// Waits until everything that was handed over is acknowledged by the store.
    ///
    /// # Errors
    /// The first failure of any stage.
    pub async fn finish(mut self) -> Result<Captured, PipelineError> {
        self.finish_reading().await;
        let Self {
            failure,
            encoders,
            packer,
            uploader,
            ..
        } = self;
        let threads = tokio::task::spawn_blocking(move || {
            let encoded = encoders.into_iter().map(thread::JoinHandle::join);
            let left_out = encoded.collect::<Result<Vec<LeftOut>, _>>();
            (left_out, packer.join())
        });
        let threads = threads.await;
        uploader
            .await
            .map_err(|_| PipelineError::Panic { stage: "upload" })?;
        if let Some(error) = failure.take() {
            return Err(error);
        }
        let Ok((Ok(encoded), Ok(packed))) = threads else {
            let stage = "encode or pack";
            return Err(PipelineError::Panic { stage });
        };
        let mut left_out = LeftOut::default();
        encoded.into_iter().for_each(|one| left_out.add(one));
        Ok(Captured {
            left_out,
            ..packed.into_captured()
        })
    }
}

impl Captured {
    /// Indices of address spaces from `first` on become those from `to` on.
    pub fn move_indices(&mut self, first: usize, to: usize) {
        let moved = |index: usize| index.checked_sub(first).map_or(index, |at| to + at);
        let spaces = std::mem::take(&mut self.spaces).into_iter();
        self.spaces = spaces.map(|(at, runs)| (moved(at), runs)).collect();
        let hashes = std::mem::take(&mut self.hashes).into_iter();
        self.hashes = hashes.map(|(at, all)| (moved(at), all)).collect();
        let left_out = [&mut self.left_out.zero, &mut self.left_out.lost];
        for (index, _) in left_out.into_iter().flatten() {
            *index = moved(*index);
        }
    }
}

impl LeftOut {
    fn add(&mut self, other: Self) {
        self.zero.extend(other.zero);
        self.lost.extend(other.lost);
        self.same_pages += other.same_pages;
    }
}

impl Figures {
    /// Bytes of memory that are known to be encoded and are not yet.
    fn waiting_bytes(&self) -> u64 {
        let announced = self.announced_bytes.load(Ordering::Relaxed);
        announced.saturating_sub(self.taken_bytes.load(Ordering::Relaxed))
    }

    /// Bytes that are encoded and not acknowledged yet.
    fn queued_bytes(&self) -> u64 {
        let encoded = self.encoded_bytes.load(Ordering::Relaxed);
        encoded.saturating_sub(self.uploaded_bytes.load(Ordering::Relaxed))
    }

    pub(super) fn note_taken(&self, bytes: u64) {
        self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn note_read(&self, bytes: u64, started: Instant) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_read_us.fetch_max(now, Ordering::Relaxed);
    }
}
