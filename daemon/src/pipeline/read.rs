//! Reading: first of all what is to be read is read, as long as there is room for it; what was read is
//! encoded after that. Who stands still need not stand until everything is compressed.
//!
//! Without room ([`Buffers`]) a thread encodes what it has read at once, while it is in its cache.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_channel::{Receiver, Sender, TryRecvError};
use bytes::Bytes;
use lifeboat_format::{frame::FRAME_PAGES_MAX, owner::FrameOwner};
use lifeboat_proto::units::{PAGE_BYTES, PageRun};
use lifeboat_track::ContentHash;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Figures, Job, PipelineError, Source,
    clock::{Clock, Spent},
};

/// Most buffers that are kept to be used again.
const SPARE_MAX: usize = 8;

/// Room for what was read and is not yet encoded, for all pipelines of a daemon together.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Semaphore>);

impl Buffers {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let frames = bytes / (FRAME_PAGES_MAX * PAGE_BYTES) as u64;
        let frames = usize::try_from(frames).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(frames.min(Semaphore::MAX_PERMITS))))
    }

    fn one(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// Tells when all that was handed over is read.
#[derive(Debug)]
pub(super) struct Count {
    token: Option<Token>,
    none: Receiver<()>,
}

/// Kept by everything that is not read, and by who may still hand something over.
#[derive(Clone, Debug)]
pub(super) struct Token {
    _sender: Sender<()>,
}

impl Default for Count {
    fn default() -> Self {
        let (sender, none) = async_channel::bounded(1);
        let token = Some(Token { _sender: sender });
        Self { token, none }
    }
}

impl Count {
    /// A token, as long as nobody waits for there being none.
    pub(super) fn token(&self) -> Option<Token> {
        self.token.clone()
    }

    /// Waits until nobody has a token.
    pub(super) async fn none(&mut self) {
        self.token = None;
        // Nobody ever sends: this ends with the last sender.
        let _closed = self.none.recv().await;
    }
}

/// A job that waits to be read.
#[derive(Debug)]
pub(super) struct Unread {
    job: Job,
    _token: Option<Token>,
}

impl Unread {
    pub(super) fn new(job: Job, token: &Option<Token>) -> Self {
        let token = token.clone();
        Self { job, _token: token }
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub content: Content,
    /// On reading it.
    pub spent: Spent,
    _room: Option<OwnedSemaphorePermit>,
}

/// Content of at most one frame.
#[derive(Debug)]
pub(super) enum Content {
    Pages {
        space: usize,
        source: Source,
        runs: Vec<PageRun>,
        known: Option<Vec<Option<ContentHash>>>,
        bytes: Vec<u8>,
    },
    /// These could not be read, and need not be.
    Vanished { space: usize, runs: Vec<PageRun> },
    Piece {
        stream: usize,
        sequence: u32,
        owner: FrameOwner,
        bytes: Bytes,
    },
}

/// What was read and waits to be encoded, as long as there is room; and buffers to read into.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    waiting: Mutex<VecDeque<Read>>,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shelf {
    fn put(&self, read: Read) {
        lock(&self.waiting).push_back(read);
    }

    fn take(&self) -> Option<Read> {
        lock(&self.waiting).pop_front()
    }

    /// A buffer of that size, with anything in it.
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = lock(&self.spare).pop().unwrap_or_default();
        buffer.resize(bytes, 0);
        buffer
    }

    /// Takes a buffer back: new memory is costly.
    pub(super) fn put_back(&self, buffer: Vec<u8>) {
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How one thread comes by what it encodes.
#[derive(Debug)]
pub(super) struct Reader {
    pub jobs: Receiver<Unread>,
    pub shelf: Arc<Shelf>,
    pub buffers: Option<Buffers>,
    pub figures: Arc<Figures>,
    pub started: Instant,
}

/// A thread that ends has either found the queue closed and empty, or something has failed, or it
/// panicked: nothing more is going to be read, nobody may go on to hand something over, and nobody is to
/// wait for what is still in the queue.
impl Drop for Reader {
    fn drop(&mut self) {
        self.jobs.close();
        while self.jobs.try_recv().is_ok() {}
    }
}

impl Reader {
    /// What is to be encoded next. `None`: all of it was.
    ///
    /// # Errors
    /// When memory cannot be read.
    pub(super) fn next(&self) -> Result<Option<Read>, PipelineError> {
        while let Some(room) = self.buffers.as_ref().and_then(Buffers::one) {
            match self.jobs.try_recv() {
                Ok(job) => {
                    let read = self.read(job, Some(room))?;
                    self.shelf.put(read);
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if let Some(read) = self.shelf.take() {
            return Ok(Some(read));
        }
        match self.jobs.recv_blocking() {
            Ok(job) => self.read(job, None).map(Some),
            // Somebody else may have put something there meanwhile.
            Err(_) => Ok(self.shelf.take()),
        }
    }

    fn read(
        &self,
        unread: Unread,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Read, PipelineError> {
        let Unread { job, _token } = unread;
        let clock = Clock::start();
        let content = match job {
            Job::Memory {
                space,
                source,
                runs,
                known,
                may_vanish,
            } => match self.read_pages(&source, &runs) {
                Ok(bytes) => Content::Pages {
                    space,
                    source,
                    runs,
                    known,
                    bytes,
                },
                Err(_) if may_vanish => Content::Vanished { space, runs },
                Err(error) => return Err(error),
            },
            Job::Stream {
                stream,
                sequence,
                owner,
                content,
            } => Content::Piece {
                stream,
                sequence,
                owner,
                bytes: content,
            },
        };
        Ok(Read {
            content,
            spent: clock.spent(),
            _room: room,
        })
    }

    fn read_pages(&self, source: &Source, runs: &[PageRun]) -> Result<Vec<u8>, PipelineError> {
        let pages: u64 = runs.iter().map(|run| run.pages).sum();
        let pages = usize::try_from(pages).expect("a frame has few pages");
        let mut bytes = self.shelf.buffer(pages * PAGE_BYTES);
        source.read(runs, &mut bytes)?;
        self.figures.note_read(bytes.len() as u64, self.started);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_jobs_whose_threads_have_ended() {
        let (jobs, jobs_out) = async_channel::bounded(2);
        let mut count = Count::default();
        let reader = Reader {
            jobs: jobs_out,
            shelf: Arc::default(),
            buffers: None,
            figures: Arc::default(),
            started: Instant::now(),
        };
        let job = || Job::Stream {
            stream: 0,
            sequence: 0,
            owner: FrameOwner::Files { offset: 0 },
            content: Bytes::from_static(b"content"),
        };
        jobs.send(Unread::new(job(), &count.token())).await.unwrap();
        let none = tokio::time::timeout(Duration::from_millis(50), count.none()).await;
        assert!(none.is_err(), "a job is unread");
        // As in a thread that panics.
        drop(reader);
        let none = tokio::time::timeout(Duration::from_secs(30), count.none()).await;
        assert!(none.is_ok(), "what is in the queue is waited for");
        let late = jobs.send(Unread::new(job(), &None)).await;
        assert!(late.is_err(), "something is handed over to nobody");
    }
}
