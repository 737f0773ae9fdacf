//! While CRIU describes the frozen tree: its image files flow into the pipeline, and what
//! Lifeboat captures itself is found, hidden from CRIU and read at the same time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_criu::{DumpDelegate, ImageError, ImageSink, ImageWriter, SharedObject, Smaps};
use lifeboat_format::{frame::FRAME_BYTES_MAX, owner::FrameOwner};
use lifeboat_proto::units::PageRun;
use lifeboat_sys::shmem::ObjectKey;
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    base::Loading,
    memory::{self, CaptureError, Space},
    objects::{self, Object},
};
use crate::{
    observe::{chain, failpoint},
    pipeline::{Intake, Job},
    precopy::{self, Freeze, SharedAhead},
};

/// Most address spaces and image files of one checkpoint.
const STREAMS_MAX: u32 = 65_536;

/// What is collected while CRIU describes the tree.
#[derive(Debug)]
pub struct Description {
    root_pid: u32,
    loading: Option<Loading>,
    ahead: Option<SharedAhead>,
    intake: Mutex<Option<Intake>>,
    runtime: Handle,
    frozen_at: OnceLock<Instant>,
    state: Mutex<State>,
    next_stream: AtomicU32,
    /// Mappings with their flags, by PID inside, as they were before the freeze.
    known: OnceLock<BTreeMap<u32, (u32, Smaps)>>,
    /// The freeze that the books were made ready for.
    freeze: OnceLock<Freeze>,
    /// A process that was forked while its memory was still being loaded.
    forked: OnceLock<u32>,
    /// For the writers of image files, which note their sizes here.
    this: Weak<Self>,
}

#[derive(Debug, Default)]
struct State {
    /// PIDs of the tree, by the numbers inside; read once, when the tree is frozen.
    pids: Option<BTreeMap<u32, u32>>,
    /// What CRIU was told of mappings and their flags, by PID inside.
    listings: BTreeMap<u32, Vec<u8>>,
    /// Number of address spaces.
    spaces: usize,
    /// Shared memory of the tree; looked for once, when CRIU first asks.
    known_objects: Option<objects::Known>,
    /// What is captured of it, by what CRIU asked for.
    objects: BTreeMap<ObjectKey, Object>,
    files: Vec<ImageStream>,
    feeders: JoinSet<Result<Fed, CaptureError>>,
}

/// What was handed to the pipeline.
#[derive(Debug)]
enum Fed {
    /// An address space, by its index.
    Space(usize, Space),
    Object,
}

/// An image file as a stream of frames.
#[derive(Clone, Debug)]
pub struct ImageStream {
    /// Its name.
    pub name: String,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Index of its stream in the pipeline.
    pub stream: usize,
}

/// What was found, when all of it was handed to the pipeline.
#[derive(Debug)]
pub struct Found {
    /// When the first process was known to be stopped.
    pub frozen_at: Option<Instant>,
    /// Address spaces in the order of their indices in the pipeline.
    pub spaces: Vec<Space>,
    /// Objects of shared memory, in the order of theirs.
    pub objects: Vec<Object>,
    /// CRIU's image files.
    pub files: Vec<ImageStream>,
}

impl Description {
    /// A description of the tree whose first process is `root_pid` in the daemon's PID namespace.
    #[must_use]
    pub fn new(
        root_pid: u32,
        loading: Option<Loading>,
        ahead: Option<SharedAhead>,
        intake: Intake,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            root_pid,
            loading,
            ahead,
            intake: Mutex::new(Some(intake)),
            runtime: Handle::current(),
            frozen_at: OnceLock::new(),
            state: Mutex::default(),
            next_stream: AtomicU32::new(0),
            known: OnceLock::new(),
            freeze: OnceLock::new(),
            forked: OnceLock::new(),
            this: Weak::clone(this),
        })
    }

    /// Learns the mappings of the tree before the freeze, so that CRIU need not have the kernel look
    /// at every page during it, and what the books know. What cannot be learned is read then.
    pub async fn learn(&self) {
        let (root_pid, ahead) = (self.root_pid, self.ahead.clone());
        let learned = tokio::task::spawn_blocking(move || {
            let freeze = ahead.map(|ahead| precopy::lock(&ahead).get_ready());
            let pids = memory::pids(root_pid).unwrap_or_default();
            let read = |(inner_pid, pid)| Some((inner_pid, (pid, Smaps::read(pid).ok()?)));
            let known: BTreeMap<_, _> = pids.into_iter().filter_map(read).collect();
            (known, freeze)
        });
        if let Ok((known, freeze)) = learned.await {
            self.known.get_or_init(|| known);
            freeze.map(|freeze| self.freeze.get_or_init(|| freeze));
        }
    }

    /// The books, and the freeze that this is to them.
    fn books(&self) -> Option<(SharedAhead, Freeze)> {
        self.ahead.clone().zip(self.freeze.get().copied())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intake(&self) -> Result<Intake, CaptureError> {
        let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        intake.clone().ok_or(CaptureError::Closed)
    }

    /// A new stream in the pipeline.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new_stream(&self) -> Result<usize, CaptureError> {
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        if stream >= STREAMS_MAX {
            return Err(CaptureError::TooManyStreams);
        }
        Ok(stream as usize)
    }

    /// Writes a stream of its own, for what is not CRIU's.
    ///
    /// # Errors
    /// When there are too many streams or the capture has ended.
    pub fn stream(&self, kind: StreamKind) -> Result<FrameStream, CaptureError> {
        Ok(FrameStream::new(self.new_stream()?, kind, self.intake()?))
    }

    /// Waits until all memory was handed to the pipeline, and closes the intake.
    ///
    /// # Errors
    /// The first failure.
    pub async fn finish(&self) -> Result<Found, CaptureError> {
        let mut feeders = std::mem::take(&mut self.state().feeders);
        let mut spaces = BTreeMap::new();
        while let Some(fed) = feeders.join_next().await {
            if let Fed::Space(index, space) = fed.map_err(|_| CaptureError::Closed)?? {
                spaces.insert(index, space);
            }
        }
        drop(
            self.intake
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let mut state = self.state();
        let mut objects: Vec<_> = std::mem::take(&mut state.objects).into_values().collect();
        objects.sort_by_key(|object| object.index);
        Ok(Found {
            frozen_at: self.frozen_at.get().copied(),
            spaces: spaces.into_values().collect(),
            objects,
            files: std::mem::take(&mut state.files),
        })
    }

    /// The process that kept the capture from being whole, since it was forked while its memory was
    /// still being loaded.
    #[must_use]
    pub fn forked(&self) -> Option<u32> {
        self.forked.get().copied()
    }

    /// Closes the intake after a failure: the pipeline can end.
    pub fn close(&self) {
        self.state().feeders.abort_all();
        drop(
            self.intake
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    fn find(&self, inner_pid: u32) -> Result<Vec<PageRun>, CaptureError> {
        let mut state = self.state();
        let pids = state.pids(self.root_pid)?;
        let pid = *pids
            .get(&inner_pid)
            .ok_or(CaptureError::Unknown { pid: inner_pid })?;
        let listing = state.listings.remove(&inner_pid);
        let found = memory::find(pid, inner_pid, listing.as_deref(), self.loading.as_ref())?;
        let hidden = found.captured.clone();
        let index = state.spaces;
        state.spaces += 1;
        let (books, intake) = (self.books(), self.intake()?);
        let feed = async move {
            let space = memory::feed(index, found, books, intake).await?;
            Ok(Fed::Space(index, space))
        };
        state.feeders.spawn_on(feed, &self.runtime);
        Ok(hidden)
    }
}

impl Description {
    fn find_object(&self, key: ObjectKey) -> Result<Option<PageRun>, CaptureError> {
        let mut state = self.state();
        // Asked again: a part of CRIU that is a process of its own does not know the answer.
        if let Some(object) = state.objects.get(&key) {
            return Ok(Some(object.hidden()));
        }
        if state.known_objects.is_none() {
            let pids = state.pids(self.root_pid)?.values().copied();
            let known = objects::Known::of(pids);
            state.known_objects = Some(known);
        }
        let known = state.known_objects.as_ref();
        let number = state.objects.len();
        let found = known.map(|known| known.find(key, number, self.ahead.as_ref()));
        let found = found.transpose()?;
        let Some(object) = found.flatten() else {
            return Ok(None);
        };
        let hidden = object.hidden();
        let intake = self.intake()?;
        let feed = objects::feed(object.clone(), self.ahead.clone(), intake);
        let feed = async move { feed.await.map(|()| Fed::Object) };
        state.feeders.spawn_on(feed, &self.runtime);
        state.objects.insert(key, object);
        Ok(Some(hidden))
    }
}

impl State {
    /// PIDs of the tree, by the numbers inside.
    fn pids(&mut self, root_pid: u32) -> Result<&BTreeMap<u32, u32>, CaptureError> {
        match &mut self.pids {
            Some(pids) => Ok(pids),
            pids => Ok(pids.insert(memory::pids(root_pid)?)),
        }
    }
}

impl DumpDelegate for Description {
    fn frozen(&self) {
        self.frozen_at.get_or_init(Instant::now);
        failpoint::reach("frozen");
        // Who asks for a delta waits for it; if it fails, they try again themselves.
        if let Some((ahead, freeze)) = self.books() {
            self.runtime.spawn_blocking(move || {
                if let Err(error) = precopy::lock(&ahead).look_at_frozen(freeze) {
                    let error = chain(&error);
                    tracing::debug!(error, "looking at the frozen tree failed");
                }
            });
        }
    }

    fn smaps(&self, inner_pid: u32) -> Option<Vec<u8>> {
        let (pid, known) = self.known.get()?.get(&inner_pid)?;
        let text = known.text_now(*pid).ok().flatten()?;
        self.state().listings.insert(inner_pid, text.clone());
        Some(text)
    }

    fn hidden(&self, inner_pid: u32) -> Result<Vec<PageRun>, ImageError> {
        self.find(inner_pid).map_err(|error| {
            if let CaptureError::Forked { pid } = error {
                self.forked.get_or_init(|| pid);
            }
            error.into()
        })
    }

    fn hidden_object(&self, object: SharedObject) -> Result<Vec<PageRun>, ImageError> {
        let key = ObjectKey {
            device: object.device,
            inode: object.inode,
        };
        Ok(self.find_object(key)?.into_iter().collect())
    }
}

#[async_trait]
impl ImageSink for Description {
    async fn open(&self, name: &str) -> Result<Box<dyn ImageWriter>, ImageError> {
        let stream = self.stream(StreamKind::Image(name.to_owned()))?;
        let mut state = self.state();
        let entry = ImageStream {
            name: name.to_owned(),
            size_bytes: 0,
            stream: stream.index,
        };
        let place = state.files.len();
        state.files.push(entry);
        drop(state);
        Ok(Box::new(ImageFrames {
            stream,
            place,
            description: Weak::clone(&self.this),
        }))
    }
}

/// What a stream carries.
#[derive(Clone, Debug)]
pub enum StreamKind {
    /// An image file of CRIU.
    Image(String),
    /// The workload's files.
    Files,
}

/// Cuts a stream into frames and hands them to the pipeline.
#[derive(Debug)]
pub struct FrameStream {
    index: usize,
    kind: StreamKind,
    intake: Intake,
    sequence: u32,
    size_bytes: u64,
    pending: BytesMut,
}

impl FrameStream {
    fn new(index: usize, kind: StreamKind, intake: Intake) -> Self {
        Self {
            index,
            kind,
            intake,
            sequence: 0,
            size_bytes: 0,
            pending: BytesMut::new(),
        }
    }

    /// Index of the stream in the pipeline.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When the pipeline was stopped.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), CaptureError> {
        self.size_bytes += piece.len() as u64;
        self.pending.extend_from_slice(piece);
        while self.pending.len() >= FRAME_BYTES_MAX {
            let frame = self.pending.split_to(FRAME_BYTES_MAX).freeze();
            self.push(frame).await?;
        }
        Ok(())
    }

    /// Hands over what is left; returns the size.
    ///
    /// # Errors
    /// When the pipeline was stopped.
    pub async fn finish(&mut self) -> Result<u64, CaptureError> {
        if !self.pending.is_empty() {
            let frame = self.pending.split().freeze();
            self.push(frame).await?;
        }
        Ok(self.size_bytes)
    }

    async fn push(&mut self, content: Bytes) -> Result<(), CaptureError> {
        let offset = u64::from(self.sequence) * FRAME_BYTES_MAX as u64;
        let owner = match &self.kind {
            StreamKind::Image(name) => FrameOwner::Image {
                name: name.clone(),
                offset,
            },
            StreamKind::Files => FrameOwner::Files { offset },
        };
        let job = Job::Stream {
            stream: self.index,
            sequence: self.sequence,
            owner,
            content,
        };
        self.sequence += 1;
        self.intake.push(job).await.map_err(CaptureError::Pipeline)
    }
}

#[derive(Debug)]
struct ImageFrames {
    stream: FrameStream,
    place: usize,
    description: Weak<Description>,
}

#[async_trait]
impl ImageWriter for ImageFrames {
    async fn write(&mut self, piece: Bytes) -> Result<(), ImageError> {
        Ok(self.stream.write(&piece).await?)
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ImageError> {
        let size_bytes = self.stream.finish().await?;
        if let Some(description) = self.description.upgrade() {
            description.state().files[self.place].size_bytes = size_bytes;
        }
        Ok(())
    }
}
