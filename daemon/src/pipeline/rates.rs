//! What was measured of this machine: what the link to the store carries, what each codec costs and
//! gains, and how much of a processor encoding threads get.
//!
//! One [`Rates`] is shared by all pipelines of the daemon and kept across saves, so that at a notice
//! everything is known that pre-copying has taught. What was never measured says so
//! ([`Snapshot::link`] is `None`, [`Snapshot::measured`] is false): nothing is made up here but the
//! costs of codecs that no page of a workload was encoded with, which are those of other workloads, or
//! else typical ones.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lifeboat_plan::{Codec, CodecEstimator, Costs, Ewma};
use lifeboat_proto::id::WorkloadName;

use super::{
    choose::{CodecFigures, CodecUse},
    link::{Flight, Link, LinkRate},
};

/// Most workloads whose costs are remembered. Of more, those that nothing is saved of now are
/// forgotten.
const CONTENTS_MAX: usize = 256;

/// What a frame counts in the mean share of a processor.
const SHARE: f64 = 0.05;

/// What the link is hoped to carry beyond what was seen while it was not the limit.
const HOPE: f64 = 1.25;

/// What the link is taken to carry while nothing is known of it, in bytes per second: about what the
/// processors of a small machine can encode for it, so that the first seconds are wrong by little
/// either way.
pub const LINK_UNKNOWN: f64 = 250e6;

/// What was measured, shared by all pipelines.
#[derive(Debug)]
pub struct Rates {
    threads: usize,
    uses: CodecFigures,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    link: Link,
    pipelines: u32,
    /// All memory that was ever encoded.
    all: CodecEstimator,
    contents: BTreeMap<WorkloadName, Arc<Content>>,
    /// Part of a processor that a thread gets: of those in a hurry, and of those that stand back.
    shares: [Ewma; 2],
}

/// What is known of encoding the memory of one workload.
#[derive(Debug, Default)]
pub(super) struct Content(Mutex<CodecEstimator>);

/// What is known at one time.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// What the link to the store carries, measured while uploads were what everything waited for;
    /// `None`: they never were, so nobody knows.
    pub link: Option<LinkRate>,
    /// What it carries at least, in bytes per second, from uploads that nothing waited for.
    pub link_at_least: Option<f64>,
    /// What each codec costs and gains on the memory that was encoded; typical values for codecs that
    /// were not used.
    pub costs: Costs,
    /// Whether the cost of each codec was measured, in the order of [`Codec::ALL`].
    pub measured: [bool; Codec::ALL.len()],
    /// Encoding threads; one that shares its processor counts for the part that it gets.
    pub threads: f64,
}

impl Snapshot {
    /// What to reckon with, in bytes per second: what was measured, else more than what was seen, else
    /// [`LINK_UNKNOWN`].
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        let hoped = self.link_at_least.map(|rate| rate * HOPE);
        match (self.link, self.link_at_least) {
            (Some(link), least) => link.bytes_per_second.max(least.unwrap_or(0.0)),
            (None, _) => hoped.unwrap_or(LINK_UNKNOWN),
        }
    }
}

impl Rates {
    /// Nothing was measured. Pipelines in a hurry have `threads` threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            uses: CodecFigures::default(),
            state: Mutex::new(State {
                link: Link::new(Instant::now()),
                pipelines: 0,
                all: CodecEstimator::default(),
                contents: BTreeMap::new(),
                shares: [Ewma::EMPTY; 2],
            }),
        }
    }

    /// What each codec was used for, in all pipelines.
    #[must_use]
    pub fn uses(&self) -> Vec<CodecUse> {
        self.uses.uses()
    }

    /// What is known, for memory of any workload.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        state.snapshot(&state.all, &Costs::default(), self.threads, false)
    }

    /// What is known, with the costs of this workload's own memory as far as some was encoded.
    #[must_use]
    pub fn snapshot_of(&self, workload: &WorkloadName) -> Snapshot {
        let state = self.lock();
        let own = state.contents.get(workload).map(|content| *content.lock());
        let others = state.all.costs(&Costs::default());
        let own = own.unwrap_or(state.all);
        state.snapshot(&own, &others, self.threads, false)
    }

    /// What a pipeline with so many threads reckons with, besides costs: threads, and its part of the
    /// link in bytes per second.
    pub(super) fn resources(&self, threads: usize, is_background: bool) -> (f64, f64) {
        let state = self.lock();
        let empty = CodecEstimator::default();
        let known = state.snapshot(&empty, &Costs::default(), threads, is_background);
        let link = known.bytes_per_second() / f64::from(state.pipelines.max(1));
        (known.threads, link)
    }

    /// Costs of all memory, for whoever knows nothing of its own yet.
    pub(super) fn costs(&self) -> Costs {
        self.lock().all.costs(&Costs::default())
    }

    /// A pipeline for this workload begins.
    pub(super) fn open(&self, workload: &WorkloadName) -> Arc<Content> {
        let mut state = self.lock();
        state.pipelines += 1;
        if state.contents.len() >= CONTENTS_MAX && !state.contents.contains_key(workload) {
            let in_use = |content: &Arc<Content>| Arc::strong_count(content) > 1;
            state.contents.retain(|_, content| in_use(content));
        }
        let content = state.contents.entry(workload.clone()).or_default();
        Arc::clone(content)
    }

    /// A pipeline ends.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.pipelines = state.pipelines.saturating_sub(1);
    }

    /// Notes what a frame of `content` became, and that it took so much time of a processor, and so much in all.
    pub(super) fn note_frame(&self, content: &Content, frame: &Frame) {
        self.uses
            .note(frame.stored_as, frame.raw_bytes, frame.stored_bytes);
        let busy = frame.busy.as_secs_f64();
        let note = |known: &mut CodecEstimator| {
            known.note(frame.codec, frame.raw_bytes, frame.stored_bytes, busy);
        };
        note(&mut content.lock());
        let mut state = self.lock();
        note(&mut state.all);
        let share = busy / frame.took.as_secs_f64().max(1e-9);
        state.shares[usize::from(frame.is_background)].note(share.min(1.0), SHARE);
    }

    /// A pack begins its way to the store.
    pub(super) fn fly(self: &Arc<Self>) -> Flying {
        let flight = self.lock().link.begin(Instant::now());
        Flying {
            rates: Arc::clone(self),
            flight,
            bytes: 0,
        }
    }

    /// Somebody waits for the link, until this is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.lock().link.wait(true, Instant::now());
        Waiting(Arc::clone(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn snapshot(
        &self,
        known: &CodecEstimator,
        others: &Costs,
        threads: usize,
        is_background: bool,
    ) -> Snapshot {
        let now = Instant::now();
        let share = self.shares[usize::from(is_background)]
            .mean()
            .unwrap_or(1.0);
        #[expect(clippy::cast_precision_loss, reason = "there are few threads")]
        let threads = threads as f64 * share.clamp(0.01, 1.0);
        Snapshot {
            link: self.link.measured(now),
            link_at_least: self.link.seen(now).map(|seen| seen.bytes_per_second),
            costs: known.costs(others),
            measured: Codec::ALL.map(|codec| known.is_measured(codec)),
            threads,
        }
    }
}

impl Content {
    pub(super) fn lock(&self) -> MutexGuard<'_, CodecEstimator> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame that was encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// What it was to be encoded with.
    pub codec: Codec,
    /// What it is stored with.
    pub stored_as: Codec,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Time of a processor.
    pub busy: Duration,
    /// Time that passed.
    pub took: Duration,
    /// Whether the thread stands back.
    pub is_background: bool,
}

/// A pack on its way; dropped at its end, however it ends.
#[derive(Debug)]
pub(super) struct Flying {
    rates: Arc<Rates>,
    flight: Flight,
    bytes: u64,
}

impl Flying {
    /// The store has acknowledged it.
    pub(super) fn land(mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        let mut state = self.rates.lock();
        state.link.end(self.flight, self.bytes, Instant::now());
    }
}

/// Somebody waits for the link.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Rates>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().link.wait(false, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> WorkloadName {
        name.parse().unwrap()
    }

    #[test]
    fn what_was_never_measured_says_so() {
        let rates = Arc::new(Rates::new(3));
        let known = rates.snapshot();
        assert_eq!((known.link, known.link_at_least), (None, None));
        assert_eq!(known.measured, [false; 4]);
        assert_eq!(known.threads, 3.0);
        assert_eq!(known.bytes_per_second(), LINK_UNKNOWN);
        // A pack that failed.
        drop(rates.fly());
        assert_eq!(rates.snapshot().link_at_least, None);
    }

    #[test]
    fn a_workload_has_costs_of_its_own_and_else_those_of_others() {
        let rates = Rates::new(2);
        let content = rates.open(&name("a"));
        let frame = Frame {
            codec: Codec::Zstd1,
            stored_as: Codec::Zstd1,
            raw_bytes: 1 << 18,
            stored_bytes: 1 << 15,
            busy: Duration::from_millis(1),
            took: Duration::from_millis(2),
            is_background: false,
        };
        rates.note_frame(&content, &frame);
        for known in [rates.snapshot_of(&name("a")), rates.snapshot_of(&name("b"))] {
            assert_eq!(known.costs.of(Codec::Zstd1).ratio, 0.125);
            assert_eq!(known.measured, [false, false, true, false]);
            // The thread had half of a processor.
            assert_eq!(known.threads, 1.0);
        }
        let other = rates.open(&name("b"));
        let frame = Frame {
            stored_bytes: 1 << 17,
            ..frame
        };
        rates.note_frame(&other, &frame);
        let ratio = |workload| {
            rates
                .snapshot_of(&name(workload))
                .costs
                .of(Codec::Zstd1)
                .ratio
        };
        assert_eq!((ratio("a"), ratio("b")), (0.125, 0.5));
    }

    #[test]
    fn workloads_that_are_not_saved_now_are_forgotten_when_there_are_many() {
        let rates = Rates::new(1);
        let kept = rates.open(&name("kept"));
        for number in 0..2 * CONTENTS_MAX {
            drop(rates.open(&name(&format!("w{number}"))));
        }
        let state = rates.lock();
        assert!(state.contents.len() <= CONTENTS_MAX);
        assert!(Arc::ptr_eq(&state.contents[&name("kept")], &kept));
    }
}
