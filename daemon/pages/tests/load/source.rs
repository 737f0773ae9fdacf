//! Frames from memory, with the weather of a test.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_format::{
    Codec, Decoder,
    frame::{FrameRef, StoredFrame, VerifiedFrame},
    seal::Seal,
};
use lifeboat_pages::{Arrived, FetchError, FrameSource, Urgency};

/// What happens to one fetch: how long it takes, and whether it fails.
pub(crate) type Weather = Box<dyn Fn(u64, Urgency) -> (Duration, bool) + Send + Sync>;

/// Frames in memory.
pub(crate) struct MemorySource {
    frames: Vec<(FrameRef, Bytes)>,
    weather: Weather,
    fetches: AtomicU64,
    took: Mutex<Vec<Duration>>,
    seal: Arc<Seal>,
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySource")
            .field("frames", &self.frames.len())
            .finish_non_exhaustive()
    }
}

impl MemorySource {
    pub(crate) fn new(contents: Vec<Vec<u8>>, weather: Weather) -> Self {
        let frame = |content: Vec<u8>| {
            let bytes = u32::try_from(content.len()).unwrap();
            let frame = FrameRef {
                pack: 0,
                offset: 0,
                stored_bytes: bytes,
                raw_bytes: bytes,
                codec: Codec::Raw,
                digest: Seal::plain().frame_digest(&content),
            };
            (frame, Bytes::from(content))
        };
        let frames = contents.into_iter().map(frame).collect();
        Self {
            frames,
            weather,
            fetches: AtomicU64::new(0),
            took: Mutex::default(),
            seal: Arc::new(Seal::plain()),
        }
    }

    /// The 99th percentile of what its answers have taken.
    pub(crate) fn slowest_of_a_hundred(&self) -> Duration {
        let mut took = self.took.lock().unwrap().clone();
        took.sort_unstable();
        took[(took.len() * 99 / 100).min(took.len() - 1)]
    }

    pub(crate) fn calm() -> Weather {
        Box::new(|_, _| (Duration::ZERO, false))
    }

    pub(crate) fn delayed(delay: Duration) -> Weather {
        Box::new(move |_, _| (delay, false))
    }
}

#[async_trait]
impl FrameSource for MemorySource {
    async fn fetch(
        &self,
        frames: &[u32],
        urgency: Urgency,
    ) -> Result<Vec<VerifiedFrame>, FetchError> {
        let arrived = self.fetch_unverified(frames, urgency).await?;
        let verified = |frame: Arrived| frame.verify(&mut Decoder::new()).unwrap();
        Ok(arrived.into_iter().map(verified).collect())
    }

    async fn fetch_unverified(
        &self,
        frames: &[u32],
        urgency: Urgency,
    ) -> Result<Vec<Arrived>, FetchError> {
        let number = self.fetches.fetch_add(1, Ordering::Relaxed);
        let (delay, fails) = (self.weather)(number, urgency);
        if !delay.is_zero() {
            let began = Instant::now();
            tokio::time::sleep(delay).await;
            self.took.lock().unwrap().push(began.elapsed());
        }
        if fails {
            return Err(FetchError::Unavailable {
                object: "memory".to_owned(),
                offset: 0,
                bytes: 0,
                waited: delay,
                attempts: 1,
                source: "the weather is bad".into(),
            });
        }
        let stored = |frame: &u32| {
            let (frame, bytes) = &self.frames[*frame as usize];
            Arrived::stored(
                Ok(StoredFrame::new(bytes.clone())),
                *frame,
                Arc::clone(&self.seal),
            )
        };
        Ok(frames.iter().map(stored).collect())
    }
}
