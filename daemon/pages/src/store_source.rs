//! Frames from an object store.
//!
//! - Neighbouring frames of one pack are one ranged read (`GET_BYTES_MAX`).
//! - Bytes in flight are bounded, for faults and for prefetch apart, so that a fault never waits for
//!   prefetch to make room.
//! - What fails for reasons that pass is tried again until [`GIVE_UP`]; then the load fails.
//! - What is not what was written is read again, [`READS_MAX`] times in all; then the load fails,
//!   and says which object and where.
//!
//! - Packs that are [`Nearby`] are not read from the store, unless they are not what was written.
//!
//! Two requests for one frame do not meet here: the page server never has two under way.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, TryStreamExt};
use lifeboat_format::{
    Decoder, FormatError,
    frame::{FrameRef, StoredFrame, VerifiedFrame},
    keys,
    manifest::PackRef,
    seal::Seal,
};
use lifeboat_proto::id::PackId;
use lifeboat_store::{Call, Key, KeyError, Store};
use tokio::sync::Semaphore;

use crate::{
    Arrived, FetchError, FrameSource, Urgency,
    coalesce::{Read, reads},
};

/// How long a read is tried again before the load fails. A store's outage of minutes is survived;
/// a process that waits longer for its memory is better restored anew.
pub const GIVE_UP: Duration = Duration::from_secs(300);

/// How often a frame that is not what was written is read.
pub const READS_MAX: u32 = 3;

/// First pause before a read is tried again; each next one is twice as long, up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// Longest pause before a read is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Most stored bytes in flight ahead of demand, in KiB.
const PREFETCH_KIB_MAX: u32 = 64 << 10;

/// Most stored bytes in flight that faults wait for, in KiB.
const DEMAND_KIB_MAX: u32 = 32 << 10;

/// Packs that are at hand without asking the store. What it gives is verified like the store's.
pub trait Nearby: Send + Sync + Debug {
    /// Bytes of a pack, if it is at hand. May block for as long as a local disk does.
    fn read(&self, pack: PackId, offset: u64, bytes: u64) -> Option<Bytes>;

    /// What was read of a pack is not what was written.
    fn damaged(&self, pack: PackId);
}

/// The frames of one manifest, in one store.
#[derive(Debug)]
pub struct StoreSource {
    store: Arc<dyn Store>,
    nearby: Option<Arc<dyn Nearby>>,
    ids: Vec<PackId>,
    packs: Vec<Key>,
    frames: Arc<[FrameRef]>,
    seal: Arc<Seal>,
    prefetch: Semaphore,
    demand: Semaphore,
    give_up: Duration,
}

impl StoreSource {
    /// The frames that a manifest names.
    ///
    /// # Errors
    /// A pack's id does not make a key: a fault of this program.
    pub fn new(
        store: Arc<dyn Store>,
        packs: &[PackRef],
        frames: impl Into<Arc<[FrameRef]>>,
        seal: Seal,
    ) -> Result<Self, KeyError> {
        let keys = packs.iter().map(|pack| Key::new(keys::pack(pack.id)));
        Ok(Self {
            store,
            nearby: None,
            ids: packs.iter().map(|pack| pack.id).collect(),
            packs: keys.collect::<Result<_, _>>()?,
            frames: frames.into(),
            seal: Arc::new(seal),
            prefetch: Semaphore::new(PREFETCH_KIB_MAX as usize),
            demand: Semaphore::new(DEMAND_KIB_MAX as usize),
            give_up: GIVE_UP,
        })
    }

    /// The same with packs that need not be asked for.
    #[must_use]
    pub fn near(mut self, nearby: Arc<dyn Nearby>) -> Self {
        self.nearby = Some(nearby);
        self
    }

    /// The same with another [`GIVE_UP`].
    #[must_use]
    pub fn giving_up_after(mut self, give_up: Duration) -> Self {
        self.give_up = give_up;
        self
    }

    fn frame(&self, frame: u32) -> Result<FrameRef, FetchError> {
        let count = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let found = self.frames.get(frame as usize).copied();
        // A manifest is checked when it is read: a frame's pack is among its packs.
        found
            .filter(|found| (found.pack as usize) < self.packs.len())
            .ok_or(FetchError::NoSuchFrame {
                frame,
                frames: count,
            })
    }

    fn refs(&self, frames: &[u32]) -> Result<Vec<FrameRef>, FetchError> {
        frames.iter().map(|frame| self.frame(*frame)).collect()
    }

    /// One read: its bytes, and the frames that are in them.
    async fn read(&self, read: Read, urgency: Urgency) -> Result<(Read, Bytes), FetchError> {
        if let Some(bytes) = self.read_nearby(&read).await {
            return Ok((read, bytes));
        }
        let (most, room) = match urgency {
            Urgency::Demand => (DEMAND_KIB_MAX, &self.demand),
            Urgency::Prefetch => (PREFETCH_KIB_MAX, &self.prefetch),
        };
        let kib = u32::try_from(read.bytes.div_ceil(1024))
            .unwrap_or(most)
            .clamp(1, most);
        let _permit = room
            .acquire_many(kib)
            .await
            .expect("the semaphore is never closed");
        let key = &self.packs[read.pack as usize];
        let bytes = self.get(key, read.offset, read.bytes).await?;
        Ok((read, bytes))
    }

    /// The same of a pack that is at hand.
    async fn read_nearby(&self, read: &Read) -> Option<Bytes> {
        let nearby = Arc::clone(self.nearby.as_ref()?);
        let pack = self.ids[read.pack as usize];
        let (offset, bytes) = (read.offset, read.bytes);
        let found = tokio::task::spawn_blocking(move || nearby.read(pack, offset, bytes)).await;
        found.ok().flatten()
    }

    /// All reads at once.
    async fn read_all(
        &self,
        frames: &[FrameRef],
        urgency: Urgency,
    ) -> Result<Vec<(Read, Bytes)>, FetchError> {
        let reads = reads(frames)
            .into_iter()
            .map(|read| self.read(read, urgency));
        reads.collect::<FuturesUnordered<_>>().try_collect().await
    }

    /// Reads a range, trying again what may succeed later.
    async fn get(&self, key: &Key, offset: u64, bytes: u64) -> Result<Bytes, FetchError> {
        let began = Instant::now();
        let call = Call::by(began + self.give_up);
        let (mut attempts, mut pause) = (0, PAUSE_FIRST);
        loop {
            attempts += 1;
            let error = match self.store.get_range(key, offset, bytes, call).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let waited = began.elapsed();
            if !error.is_transient() || waited + pause >= self.give_up {
                let object = key.as_str().to_owned();
                let source = Box::new(error);
                return Err(FetchError::Unavailable {
                    object,
                    offset,
                    bytes,
                    waited,
                    attempts,
                    source,
                });
            }
            tracing::warn!(%key, offset, bytes, attempts, %error, "memory is not there yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Checks and decodes, away from the threads that serve the network.
    async fn verify(
        &self,
        bytes: Bytes,
        offset: u64,
        wanted: Vec<(usize, FrameRef)>,
    ) -> Vec<(usize, Result<VerifiedFrame, FormatError>)> {
        let seal = Arc::clone(&self.seal);
        let work = move || {
            let mut decoder = Decoder::new();
            let mut one = |frame: &FrameRef| {
                StoredFrame::from_range(&bytes, offset, frame)?
                    .verify(frame, &seal)?
                    .decode(&mut decoder)
            };
            wanted.iter().map(|(at, frame)| (*at, one(frame))).collect()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(verified) => verified,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and the load with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Reads a frame again that was not what was written.
    async fn again(
        &self,
        number: u32,
        frame: FrameRef,
        first: FormatError,
    ) -> Result<VerifiedFrame, FetchError> {
        let key = &self.packs[frame.pack as usize];
        let mut error = first;
        if let Some(nearby) = &self.nearby {
            nearby.damaged(self.ids[frame.pack as usize]);
        }
        for _ in 1..READS_MAX {
            tracing::warn!(%key, offset = frame.offset, %error, "reading a frame again");
            let bytes = self
                .get(key, frame.offset, u64::from(frame.stored_bytes))
                .await?;
            match self
                .verify(bytes, frame.offset, vec![(0, frame)])
                .await
                .pop()
            {
                Some((_, Ok(content))) => return Ok(content),
                Some((_, Err(next))) => error = next,
                None => {}
            }
        }
        Err(FetchError::Corrupt {
            frame: number,
            object: key.as_str().to_owned(),
            offset: frame.offset,
            attempts: READS_MAX,
            source: Box::new(error),
        })
    }
}

#[async_trait]
impl FrameSource for StoreSource {
    async fn fetch(
        &self,
        frames: &[u32],
        urgency: Urgency,
    ) -> Result<Vec<VerifiedFrame>, FetchError> {
        let refs = self.refs(frames)?;
        let mut found = Vec::with_capacity(frames.len());
        for (read, bytes) in self.read_all(&refs, urgency).await? {
            let wanted = read.wanted.iter().map(|at| (*at, refs[*at])).collect();
            for (at, result) in self.verify(bytes, read.offset, wanted).await {
                found.push(match result {
                    Ok(content) => (at, content),
                    Err(error) => (at, self.again(frames[at], refs[at], error).await?),
                });
            }
        }
        Ok(in_order(found))
    }

    async fn fetch_unverified(
        &self,
        frames: &[u32],
        urgency: Urgency,
    ) -> Result<Vec<Arrived>, FetchError> {
        let refs = self.refs(frames)?;
        let mut found = Vec::with_capacity(frames.len());
        for (read, bytes) in self.read_all(&refs, urgency).await? {
            for at in read.wanted {
                let frame = refs[at];
                let stored = StoredFrame::from_range(&bytes, read.offset, &frame);
                found.push((at, Arrived::stored(stored, frame, Arc::clone(&self.seal))));
            }
        }
        Ok(in_order(found))
    }
}

/// What was found, in the order in which it was asked for.
fn in_order<T>(mut found: Vec<(usize, T)>) -> Vec<T> {
    found.sort_unstable_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, content)| content).collect()
}
