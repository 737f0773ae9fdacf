//! The books of one workload: what its tracker reports, and what is saved of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lifeboat_format::{FormatError, error::Problem, manifest::PackRef, pack::PackOrigin};
use lifeboat_proto::{
    id::{Epoch, PackId, WorkloadName},
    units::{PAGE_BYTES, PAGE_SIZE, PageRun},
};
use lifeboat_sys::pidfd::Pidfd;
use lifeboat_track::{ContentHash, Cost, Mode, Options, Runs, SpaceId, TreeError, TreeTracker};

use super::{
    freeze::{Freeze, Lasts},
    objects::SharedBooks,
    saved::Saved,
    stored::Stored,
};
use crate::pipeline::{Captured, LeftOut};

/// Most pages of a workload whose content is known by a hash, so that a rewrite with the same
/// content is noticed: of 64 GiB, at 17 bytes each.
pub(crate) const HASHED_PAGES_MAX: u64 = 16 << 20;

/// With longer intervals than this no page is left out for having been written often: protecting it
/// once in such a time costs nothing, and reading it at the freeze does.
const HEAT_INTERVAL_MAX: Duration = Duration::from_secs(3);

/// Weight of the latest figure in an average.
const NEWEST: f64 = 0.3;

/// Why the books are worthless. They are begun anew.
#[derive(Debug, thiserror::Error)]
pub enum AheadError {
    /// The tracker failed.
    #[error("track writes to memory")]
    Track(#[source] TreeError),
    /// What was captured does not make an index.
    #[error("index what was captured: {0:?}")]
    Index(Problem),
    /// What was captured does not make a pack.
    #[error("enter a pack")]
    Pack(#[source] FormatError),
}

/// The books.
#[derive(Debug)]
pub struct Ahead {
    pub(super) tracker: TreeTracker,
    /// Address spaces, and objects of shared memory.
    pub(super) spaces: BTreeMap<SpaceId, Saved>,
    pub(super) shared: SharedBooks,
    pub(super) stored: Stored,
    /// Packs that were forgotten and that nothing names: to be deleted from the store.
    pub(super) dead: Vec<PackId>,
    /// The freeze that is going on, or the next one.
    pub(super) freeze: Freeze,
    pub(super) lasts: Option<Lasts>,
    /// What was captured and what of it is known, just before a freeze.
    pub(super) known: BTreeMap<SpaceId, (Runs, Runs)>,
    /// Pages of a frozen tree that are likely to be needed first.
    pub(super) hot: BTreeMap<SpaceId, Vec<PageRun>>,
    origin: PackOrigin,
    figures: Figures,
    hashed_pages: u64,
}

/// What is known of a workload's memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Whether all of its memory has been reported once.
    pub is_known: bool,
    /// To be captured, in bytes, without what was written since the last round.
    pub pending_bytes: u64,
    /// Left for the freeze: written in each round, or not tracked.
    pub left_bytes: u64,
    /// Bytes that become dirty in a second.
    pub dirty_rate: f64,
    /// Bytes of memory that are saved in a second, measured.
    pub rate: f64,
    /// When the last round was.
    pub round_at: Option<Instant>,
    /// What the last round cost the workload.
    pub cost: Cost,
    /// Time that the last round took.
    pub round_took: Duration,
    /// Whether the last round had more to tell.
    pub is_partial: bool,
    /// Memory tracked, in bytes.
    pub tracked_bytes: u64,
    /// Bytes stored, and those of them that are alive.
    pub stored_bytes: (u64, u64),
    /// Memory that the books take, in bytes.
    pub heap_bytes: u64,
    /// Pages that were written, and held what was stored already.
    pub same_pages: u64,
    /// Bytes of memory captured so far.
    pub captured_bytes: u64,
}

impl Figures {
    /// Bytes that would have to be saved at a freeze now.
    #[must_use]
    pub fn unsaved_bytes(&self) -> u64 {
        let since = self.round_at.map_or(Duration::ZERO, |at| at.elapsed());
        let written = (self.dirty_rate * since.as_secs_f64()).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, bounded by the memory there is"
        )]
        let written = (written as u64).min(self.tracked_bytes);
        let unsaved = self.pending_bytes + self.left_bytes + written;
        unsaved.min(self.tracked_bytes.max(self.pending_bytes))
    }
}

impl Ahead {
    /// Books of the tree of `root`, with nothing in them.
    #[must_use]
    pub fn new(root: Pidfd, workload: WorkloadName, epoch: Epoch) -> Self {
        // Packs of an earlier daemon must never get the same ids: those are of the content.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let sequence = since.map_or(0, |since| since.as_nanos());
        Self {
            tracker: TreeTracker::new(root, Options::default()),
            spaces: BTreeMap::new(),
            shared: SharedBooks::default(),
            stored: Stored::default(),
            dead: Vec::new(),
            freeze: Freeze::default(),
            lasts: None,
            known: BTreeMap::new(),
            hot: BTreeMap::new(),
            origin: PackOrigin {
                workload,
                epoch,
                sequence: u64::try_from(sequence).unwrap_or(u64::MAX / 2),
            },
            figures: Figures::default(),
            hashed_pages: 0,
        }
    }

    /// What is known now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let pages = |of: fn(&Saved) -> u64| -> u64 { self.spaces.values().map(of).sum() };
        Figures {
            pending_bytes: pages(|one| one.pending.pages()) * PAGE_SIZE,
            left_bytes: pages(|one| one.hot_pages + one.untracked_pages) * PAGE_SIZE,
            tracked_bytes: pages(|one| one.tracked_pages) * PAGE_SIZE,
            stored_bytes: self.stored.bytes(),
            heap_bytes: pages(Saved::heap_bytes),
            ..self.figures
        }
    }

    /// How each process is tracked, and why not better.
    pub fn modes(&self) -> impl Iterator<Item = (u32, Mode, Option<&str>)> + '_ {
        self.spaces
            .values()
            .filter_map(|one| Some((one.pid()?, one.mode, one.why.as_deref())))
    }

    /// Where the next packs say that they come from.
    pub(crate) fn origin(&self) -> PackOrigin {
        self.origin.clone()
    }

    /// Looks what was written since the last round. Blocks.
    ///
    /// # Errors
    /// When the tracker failed: the books are worthless.
    pub fn round(&mut self) -> Result<(), AheadError> {
        let since = self.figures.round_at.map(|at| at.elapsed());
        if since.is_some_and(|since| since > HEAT_INTERVAL_MAX) {
            self.tracker.cool();
        }
        let round = self.tracker.round().map_err(AheadError::Track)?;
        for id in &round.ended {
            if let Some(mut ended) = self.spaces.remove(id) {
                ended.end(&mut self.stored);
            }
        }
        let mut dirty = 0;
        for one in &round.spaces {
            let saved = self
                .spaces
                .entry(one.space)
                .or_insert_with(|| Saved::new(one.pid));
            (saved.mode, saved.why) = (one.mode, one.why.clone());
            saved.note(&one.round, &mut self.stored);
            dirty += one.round.dirty.pages();
        }
        let now = Instant::now();
        let figures = &mut self.figures;
        if let Some(before) = figures.round_at.replace(now)
            && figures.is_known
        {
            let rate = per_second(dirty * PAGE_SIZE, now.saturating_duration_since(before));
            figures.dirty_rate = average(figures.dirty_rate, rate);
        }
        figures.cost = round.cost;
        figures.round_took = round.took;
        figures.is_partial = round.spaces.iter().any(|one| one.round.is_partial);
        figures.is_known |= !figures.is_partial;
        let pids: Vec<_> = round.spaces.iter().map(|one| one.pid).collect();
        self.look_at_objects(&pids);
        self.hashed_pages = self.spaces.values().map(Saved::hashed_pages).sum();
        Ok(())
    }

    /// Leaves nothing out of the next round.
    pub(super) fn cool(&mut self) {
        self.tracker.cool();
    }

    /// Enters what a pipeline has captured of `spaces`, by their indices in it; `None` stands for one
    /// that has no books. Returns what is to be added to the numbers of its frames.
    ///
    /// # Errors
    /// When it does not make an index: the books are worthless.
    pub(super) fn enter(
        &mut self,
        captured: &Captured,
        spaces: &[Option<SpaceId>],
    ) -> Result<u32, AheadError> {
        self.origin.sequence += captured.packs.len() as u64;
        let first_frame = self.stored.enter(&captured.packs, &captured.frames);
        let id_of = |index: &usize| spaces.get(*index).copied().flatten();
        for (index, runs) in &captured.spaces {
            let Some(saved) = id_of(index).and_then(|id| self.spaces.get_mut(&id)) else {
                continue;
            };
            for run in runs {
                let mut run = *run;
                run.frame = run.frame.saturating_add(first_frame);
                saved
                    .keep(run, &mut self.stored)
                    .map_err(AheadError::Index)?;
            }
        }
        for (index, hashes) in &captured.hashes {
            let Some(id) = id_of(index) else { continue };
            let Some(saved) = self.spaces.get_mut(&id) else {
                continue;
            };
            let is_compared = saved.mode == Mode::Hash;
            for (page, hash) in hashes {
                if self.hashed_pages < HASHED_PAGES_MAX {
                    saved.keep_hash(*page, *hash);
                    self.hashed_pages += 1;
                }
                if is_compared {
                    self.tracker.captured_as(id, *page, *hash);
                }
            }
        }
        self.enter_left_out(&captured.left_out, spaces);
        Ok(first_frame)
    }

    fn enter_left_out(&mut self, left_out: &LeftOut, spaces: &[Option<SpaceId>]) {
        let zero = ContentHash::of(&[0; PAGE_BYTES]);
        for (index, run) in &left_out.zero {
            let Some(id) = spaces.get(*index).copied().flatten() else {
                continue;
            };
            if let Some(saved) = self.spaces.get_mut(&id) {
                saved.keep_zero(*run, &mut self.stored);
                if saved.mode == Mode::Hash {
                    let pages = run.start.0..run.end().0;
                    pages.for_each(|page| {
                        let page = lifeboat_proto::units::PageIndex(page);
                        self.tracker.captured_as(id, page, zero);
                    });
                }
            }
        }
        self.figures.same_pages += left_out.same_pages;
    }

    /// Bytes of memory were captured in this time.
    pub(super) fn note_rate(&mut self, bytes: u64, took: Duration) {
        self.figures.captured_bytes += bytes;
        let rate = per_second(bytes, took);
        self.figures.rate = if self.figures.rate > 0.0 {
            average(self.figures.rate, rate)
        } else {
            rate
        };
    }

    /// All packs that the books name.
    pub(super) fn stored_packs(&self) -> Vec<PackRef> {
        self.stored.packs().collect()
    }

    /// Packs that are garbage once the books end: no checkpoint names them.
    pub(super) fn leftovers(&mut self) -> Vec<PackId> {
        let mut left = std::mem::take(&mut self.dead);
        left.extend(self.stored.unnamed());
        left
    }

    /// Keeps the larger part of what is stored alive; returns packs to be deleted from the store.
    pub(super) fn tidy(&mut self) -> Vec<PackId> {
        let emptied = self.stored.to_empty(Instant::now());
        if !emptied.is_empty() {
            for saved in self.spaces.values_mut() {
                saved.empty(|frame| emptied.contains(&frame));
            }
        }
        if let Some((numbers, dead)) = self.stored.compact() {
            for saved in self.spaces.values_mut() {
                saved.renumber(&numbers);
            }
            self.dead.extend(dead);
        }
        std::mem::take(&mut self.dead)
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64().max(1e-6)
}

fn average(before: f64, now: f64) -> f64 {
    before + NEWEST * (now - before)
}
