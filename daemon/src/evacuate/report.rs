//! What a save was like: figures and times, while it goes on and afterwards.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::describe::Found;
use crate::{
    observe::failpoint,
    pipeline::{CodecUse, Figures, Pipeline},
};

/// Figures and times of one save.
#[derive(Debug)]
pub struct SaveReport {
    started: Instant,
    started_at: SystemTime,
    /// Memory of the workload at the freeze, in bytes.
    pub memory_bytes: AtomicU64,
    figures: OnceLock<Arc<Figures>>,
    frozen: OnceLock<Instant>,
    last_read: OnceLock<Instant>,
    stages: Mutex<Vec<Stage>>,
}

/// When a stage ended.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// From the call to its end.
    pub ended_after: Duration,
}

impl Default for SaveReport {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            memory_bytes: AtomicU64::new(0),
            figures: OnceLock::new(),
            frozen: OnceLock::new(),
            last_read: OnceLock::new(),
            stages: Mutex::default(),
        }
    }
}

impl SaveReport {
    /// Follows the figures of a pipeline.
    pub(super) fn begin(&self, figures: &Arc<Figures>) {
        self.figures.get_or_init(|| Arc::clone(figures));
    }

    /// Notes what was found in the frozen tree, and when its last byte was read.
    pub(super) fn read(&self, found: &Found, pipeline: &Pipeline) {
        if let Some(at) = found.frozen_at {
            self.frozen.get_or_init(|| at);
        }
        let last = Duration::from_micros(pipeline.figures().last_read_us.load(Ordering::Relaxed));
        self.last_read.get_or_init(|| pipeline.started() + last);
        let present = found.spaces.iter().flat_map(|space| &space.present);
        let missing = found.spaces.iter().flat_map(|space| &space.missing);
        let shared = found.objects.iter().flat_map(|object| &object.present);
        let present = present.chain(shared);
        let pages: u64 = present.map(|run| run.bytes()).sum::<u64>()
            + missing.map(|run| run.pages().bytes()).sum::<u64>();
        let images: u64 = found.files.iter().map(|file| file.size_bytes).sum();
        self.memory_bytes.store(pages + images, Ordering::Relaxed);
    }

    /// Notes that a stage has ended.
    pub(super) fn mark(&self, name: &'static str) {
        failpoint::reach(name);
        let stage = Stage {
            name,
            ended_after: self.started.elapsed(),
        };
        self.stages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stage);
    }

    /// The stages that have ended, in that order.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        self.stages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From the first process stopped to the last byte read.
    #[must_use]
    pub fn freeze(&self) -> Option<Duration> {
        let (frozen, read) = (self.frozen.get()?, self.last_read.get()?);
        Some(read.saturating_duration_since(*frozen))
    }

    /// From the call until now.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the workload was frozen, by this machine's clock; the time of the call before that.
    #[must_use]
    pub fn frozen_at(&self) -> SystemTime {
        self.started_at + self.frozen_after()
    }

    /// From the call to the freeze; zero before that.
    #[must_use]
    pub fn frozen_after(&self) -> Duration {
        self.frozen
            .get()
            .map_or(Duration::ZERO, |at| at.duration_since(self.started))
    }

    /// Bytes read from the frozen workload.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.figures
            .get()
            .map_or(0, |figures| figures.read_bytes.load(Ordering::Relaxed))
    }

    /// Frames that were made, by codec.
    #[must_use]
    pub fn codecs(&self) -> Vec<CodecUse> {
        let figures = self.figures.get();
        figures.map_or_else(Vec::new, |figures| figures.codecs.uses())
    }

    /// Bytes uploaded.
    #[must_use]
    pub fn uploaded_bytes(&self) -> u64 {
        self.figures
            .get()
            .map_or(0, |figures| figures.uploaded_bytes.load(Ordering::Relaxed))
    }
}
