//! Which pages of a running address space still miss their content, and what that is.
//!
//! A pure data structure: events go in, answers come out; no descriptors, no threads. What changes
//! it can be written down ([`Log`]), and is the same when it is [done again](Missing::again).
//!
//! # What makes it more than a bitmap
//!
//! The kernel reports an unmapping, a move and a fork *after* it happened (a removal before), and
//! two threads' reports can be read in the other order than their deeds. A program that never races
//! with itself can still cause that: one thread frees a big block (`munmap`), another one grows
//! another block (`mremap`), and the kernel puts it where the first one was. So:
//!
//! - A move to a place that is taken means that the report about who left that place is still to
//!   come. What was there is [displaced](Missing::displaced): the next report of an unmapping or a
//!   move from there is about it, not about the newcomer.
//! - `mremap` reports the move first and then, when its thread runs again, that the old place was
//!   unmapped. Until then the old place counts as taken, by [nothing](Origin::Left). With
//!   `MREMAP_DONTUNMAP` it stays so, rightly.
//! - A fork that is read after an unmapping or a move may have happened before it: then the child
//!   still has the pages at the old place. Such [ghosts](Missing::ghosts) are remembered; when a
//!   child appears, it is asked whether it has a mapping there.
//!
//! Both lists are void when the address space is known to be [at rest](Missing::at_rest): the
//! kernel has no report under way, so that all that happened was read.
//!
//! Not decided, since the kernel tells nothing that would decide it (each needs a thread that is
//! stopped between its deed and its report, while others' deeds are done and read meanwhile):
//! - a fork, and other memory moved to where something has just left, both unread: the child is
//!   believed to be as its parent was when the fork was read;
//! - `MREMAP_DONTUNMAP` and a fork: the child may find what was moved in place of zeros;
//! - a removal between a fork's deed and its report: the child finds zeros;
//! - memory that is moved again before the report about who left its place was read;
//! - a mapping that grew in place, whose new part lies where another thread has just unmapped
//!   something, or is moved before it was ever touched.

use std::{cell::RefCell, collections::VecDeque, ops::Range, sync::Arc};

use lifeboat_proto::units::{PageIndex, PageRun};

use crate::{
    Run,
    bits::Bits,
    journal::{Change, Log},
    layout::{Layout, Ordinal},
    mapping::{Mapping, Origin, Piece},
    process::ProcessId,
};

/// Most remembered pieces that were left by an unread fork's deeds. When there are more, the oldest
/// is forgotten.
pub(crate) const GHOSTS_MAX: usize = 4096;

/// What an address space is asked for when a thread faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A page of zeros.
    Zero,
    /// The content of this frame.
    Frame(u32),
}

/// Pages of a frame that are missing at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// Where they are missing now.
    pub(crate) now: PageRun,
    /// The first one at the freeze.
    pub(crate) captured: PageIndex,
    /// The first one in the frame.
    pub(crate) frame_page: u32,
}

/// What it means that the kernel, at rest, knows no mapping where pages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// A child may lack what its parent had (`MADV_DONTFORK`): the pages are forgotten.
    Settled,
    /// Nothing explains it.
    Unexplained,
}

/// No change of one process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Missing {
    layout: Arc<Layout>,
    /// Captured pages whose content was neither installed nor removed. A bit says nothing about a
    /// page that is in no mapping any more.
    bits: Bits,
    /// Set bits of pages that are in a mapping.
    remaining: u64,
    mapping: Mapping,
    /// Pieces whose place was taken by others before the report that they left, oldest first.
    displaced: Vec<Piece>,
    /// What left its place since the last rest, in the order of leaving.
    ghosts: VecDeque<Piece>,
    forked: bool,
    log: Log,
}

impl Missing {
    /// All of `layout` is missing.
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        let mut mapping = Mapping::default();
        let captured = layout.runs().iter().map(|run| run.pages());
        for run in layout.lazy.iter().copied().chain(captured) {
            let known: Vec<PageRun> = mapping.pieces(run).map(|piece| piece.now).collect();
            for now in free(run, &known) {
                mapping.insert(Piece {
                    now,
                    origin: Origin::Captured(now.start),
                });
            }
        }
        Self {
            bits: Bits::ones(layout.pages()),
            remaining: u64::from(layout.pages()),
            mapping,
            layout,
            displaced: Vec::new(),
            ghosts: VecDeque::new(),
            forked: false,
            log: Log::default(),
        }
    }

    /// Changes are written down from now on.
    pub(crate) fn log_to(&mut self, log: Log) {
        self.log = log;
    }

    /// Does a change again that was written down. Answers the child, if it is a fork.
    pub(crate) fn again(&mut self, change: &Change) -> Result<Option<Self>, Unknown> {
        match change {
            Change::Installed(captured) => drop(self.installed(*captured)),
            Change::Removed(range) => self.removed(*range),
            Change::Unmapped(range) => self.unmapped(*range),
            Change::Absent(now) => drop(self.absent(*now)),
            Change::Moved(from, to) => self.moved(*from, *to),
            Change::AtRest => self.at_rest(),
            Change::Grown(page) => drop(self.fault(*page)),
            Change::Forked(_, answers) => {
                let answers = RefCell::new(answers.iter());
                let child = self.child(|_| answers.borrow_mut().next().copied().unwrap_or(true));
                return Ok(Some(child));
            }
            Change::Served | Change::AllAdded | Change::Gone => return Err(Unknown),
        }
        Ok(None)
    }

    /// Pages that are still to be installed.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Whether there is anything that [`Missing::at_rest`] would settle.
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.displaced.is_empty() || !self.ghosts.is_empty()
    }

    /// What the page needs that a thread faults on.
    pub(crate) fn fault(&mut self, page: PageIndex) -> Look {
        match self
            .mapping
            .find(page)
            .and_then(|piece| piece.cut(PageRun::new(page, 1)))
        {
            Some(piece) => piece
                .captured()
                .map_or(Look::Zero, |captured| self.look(captured.start)),
            None => {
                // Grown in place: of this the kernel tells nothing.
                self.log.note(&Change::Grown(page));
                let now = PageRun::new(page, 1);
                self.mapping.insert(Piece {
                    now,
                    origin: Origin::Fresh,
                });
                Look::Zero
            }
        }
    }

    /// What a page needs that was captured, if it was.
    fn look(&self, captured: PageIndex) -> Look {
        match self.layout.find(captured) {
            Some(run) if self.bits.get(self.layout.ordinal(captured)) => Look::Frame(run.frame),
            _ => Look::Zero,
        }
    }

    /// Whether a frame has pages that are missing.
    pub(crate) fn wants(&self, frame: u32) -> bool {
        self.layout.of_frame(frame).any(|run| {
            self.mapping
                .places(run.pages())
                .filter_map(Piece::captured)
                .any(|captured| self.bits.count(self.layout.ordinals(captured)) > 0)
        })
    }

    /// Where pages of a frame are missing, in pieces as large as can be.
    pub(crate) fn holes(&self, frame: u32) -> Vec<Hole> {
        let mut holes: Vec<Hole> = Vec::new();
        for run in self.layout.of_frame(frame) {
            for place in self.mapping.places(run.pages()) {
                self.holes_of(run, place, &mut holes);
            }
        }
        holes.sort_unstable_by_key(|hole| hole.now.start);
        holes.dedup_by(|next, hole| {
            let joins = hole.now.end() == next.now.start
                && u64::from(hole.frame_page) + hole.now.pages == u64::from(next.frame_page)
                && hole.captured + hole.now.pages == next.captured;
            if joins {
                hole.now.pages += next.now.pages;
            }
            joins
        });
        holes
    }

    fn holes_of(&self, run: Run, place: Piece, holes: &mut Vec<Hole>) {
        let Some(captured) = place.captured() else {
            return;
        };
        for missing in self.missing(captured) {
            let Some(part) = place.cut_captured(missing.pages()) else {
                continue;
            };
            let into = missing.start.0 - run.start.0;
            holes.push(Hole {
                now: part.now,
                captured: missing.start,
                frame_page: run.frame_page
                    + u32::try_from(into).expect("inside of the run, which has a u32 of pages"),
            });
        }
    }

    /// The missing parts of captured pages, as runs of frames.
    fn missing(&self, captured: PageRun) -> impl Iterator<Item = Run> + '_ {
        self.layout.within(captured).flat_map(move |run| {
            self.bits
                .runs(self.layout.ordinals(run.pages()))
                .filter_map(|ordinals: Range<Ordinal>| self.layout.at(ordinals))
        })
    }

    /// All that is missing, at its present addresses, ascending.
    pub(crate) fn unloaded(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for piece in self.mapping.all() {
            let Some(captured) = piece.captured() else {
                continue;
            };
            for run in self.missing(captured) {
                let into = run.start.0 - captured.start.0;
                runs.push(Run {
                    start: piece.now.start + into,
                    ..run
                });
            }
        }
        runs
    }

    /// Content was installed (or found there) in pages that were `captured` at the freeze.
    pub(crate) fn installed(&mut self, captured: PageRun) -> u32 {
        self.log.note(&Change::Installed(captured));
        let cleared = self.bits.clear(self.layout.ordinals(captured));
        self.remaining -= u64::from(cleared);
        cleared
    }

    /// The kernel, at rest, knows no mapping that takes pages at `now`.
    pub(crate) fn absent(&mut self, now: PageRun) -> Absent {
        if !self.forked {
            return Absent::Unexplained;
        }
        self.log.note(&Change::Absent(now));
        for piece in self.mapping.take(now) {
            self.left(piece);
        }
        Absent::Settled
    }

    /// Counts a piece out that was taken from the mapping or from the displaced.
    fn left(&mut self, piece: Piece) {
        self.remaining -= self.count(piece);
    }

    fn count(&self, piece: Piece) -> u64 {
        let count = |captured| self.bits.count(self.layout.ordinals(captured));
        piece
            .captured()
            .map_or(0, |captured| u64::from(count(captured)))
    }

    /// The kernel reports that `range` was unmapped.
    pub(crate) fn unmapped(&mut self, range: PageRun) {
        self.log.note(&Change::Unmapped(range));
        for piece in self.leave(range) {
            self.left(piece);
        }
    }

    /// The kernel reports that `from` was moved to `to`.
    pub(crate) fn moved(&mut self, from: PageRun, to: PageIndex) {
        self.log.note(&Change::Moved(from, to));
        let target = PageRun::new(to, from.pages);
        let before = self.mapping.take(target);
        self.remember(&before);
        self.displaced.extend(before);
        let pieces = self.leave(from);
        let newcomers: Vec<PageRun> = self.mapping.pieces(from).map(|piece| piece.now).collect();
        let left = |now| Piece {
            now,
            origin: Origin::Left,
        };
        self.displaced.extend(newcomers.iter().copied().map(left));
        for now in free(from, &newcomers) {
            self.mapping.insert(left(now));
        }
        let mut taken = Vec::new();
        for piece in pieces {
            let piece = piece.moved(from.start, to);
            taken.push(piece.now);
            self.mapping.insert(piece);
        }
        for now in free(target, &taken) {
            self.mapping.insert(Piece {
                now,
                origin: Origin::Fresh,
            });
        }
    }

    /// Takes out what a report says has left `range`: what was displaced there, else what is there.
    fn leave(&mut self, range: PageRun) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut rest = vec![range];
        let mut kept = Vec::new();
        for displaced in self.displaced.drain(..) {
            let leaving: Vec<PageRun> = rest
                .iter()
                .filter_map(|rest| rest.intersection(displaced.now))
                .collect();
            pieces.extend(leaving.iter().filter_map(|part| displaced.cut(*part)));
            kept.extend(free(displaced.now, &leaving).filter_map(|part| displaced.cut(part)));
            rest = rest
                .into_iter()
                .flat_map(|run| free(run, &leaving).collect::<Vec<_>>())
                .collect();
        }
        self.displaced = kept;
        for range in rest {
            let left = self.mapping.take(range);
            self.remember(&left);
            pieces.extend(left);
        }
        pieces.sort_unstable_by_key(|piece| piece.now.start);
        pieces
    }

    /// Notes who has left.
    fn remember(&mut self, ghosts: &[Piece]) {
        self.ghosts.extend(ghosts);
        let excess = self.ghosts.len().saturating_sub(GHOSTS_MAX);
        self.ghosts.drain(..excess);
    }

    /// The kernel reports that the content of `range` is thrown away: from now on it is zeros.
    pub(crate) fn removed(&mut self, range: PageRun) {
        self.log.note(&Change::Removed(range));
        let pieces: Vec<Piece> = self.mapping.pieces(range).collect();
        for captured in pieces.into_iter().filter_map(Piece::captured) {
            let cleared = self.bits.clear(self.layout.ordinals(captured));
            self.remaining -= u64::from(cleared);
        }
    }

    /// Every report of the kernel was read: what was kept for unread ones is void.
    pub(crate) fn at_rest(&mut self) {
        if self.is_unsettled() {
            self.log.note(&Change::AtRest);
        }
        self.ghosts.clear();
        for piece in std::mem::take(&mut self.displaced) {
            self.left(piece);
        }
    }

    /// The kernel reports that a child was forked: what it misses. `has` tells whether the child has
    /// a mapping that takes pages there.
    pub(crate) fn fork(&self, id: ProcessId, has: impl Fn(PageIndex) -> bool) -> Self {
        let answers: RefCell<Vec<bool>> = RefCell::default();
        let mut child = self.child(|page| {
            let answer = has(page);
            answers.borrow_mut().push(answer);
            answer
        });
        self.log
            .note(&Change::Forked(id.forked, answers.into_inner()));
        child.log = self.log.of(id);
        child
    }

    fn child(&self, has: impl Fn(PageIndex) -> bool) -> Self {
        let mut child = Self {
            layout: Arc::clone(&self.layout),
            bits: self.bits.clone(),
            remaining: 0,
            mapping: self.mapping.clone(),
            displaced: Vec::new(),
            ghosts: VecDeque::new(),
            forked: true,
            log: Log::default(),
        };
        for range in &self.layout.wiped_on_fork {
            child.bits.clear(child.layout.ordinals(*range));
        }
        let left = |piece: &Piece| piece.origin == Origin::Left && !has(piece.now.start);
        for piece in self.mapping.all().filter(left) {
            child.mapping.take(piece.now);
        }
        for ghost in self.ghosts.iter().rev() {
            // Where others came later, it has left before.
            let parts = child.free_parts(*ghost).into_iter();
            for part in parts.filter(|part| has(part.now.start)) {
                child.undo(part, &has);
            }
        }
        child.remaining = child.mapping.all().map(|piece| child.count(piece)).sum();
        child
    }

    /// The parts of `piece` where there is nothing that counts.
    fn free_parts(&self, piece: Piece) -> Vec<Piece> {
        let others = self
            .mapping
            .pieces(piece.now)
            .filter(|other| other.origin != Origin::Left);
        let others: Vec<PageRun> = others.map(|other| other.now).collect();
        free(piece.now, &others)
            .filter_map(|part| piece.cut(part))
            .collect()
    }

    /// Puts a piece in place of what is there.
    fn put(&mut self, piece: Piece) {
        self.mapping.take(piece.now);
        self.mapping.insert(piece);
    }

    /// In a child that has a mapping where `piece` was, and nobody there who came later: undoes that
    /// it left, unless the child has it where it went.
    fn undo(&mut self, piece: Piece, has: impl Fn(PageIndex) -> bool) {
        let places = piece
            .captured()
            .map(|captured| self.mapping.places(captured));
        let places: Vec<PageRun> = places
            .into_iter()
            .flatten()
            .map(|place| place.now)
            .collect();
        if places.iter().any(|place| has(place.start)) {
            return;
        }
        for place in places {
            self.mapping.take(place);
        }
        self.put(piece);
    }
}

/// The parts of `range` that none of `taken` covers. `taken` are disjoint.
fn free(range: PageRun, taken: &[PageRun]) -> impl Iterator<Item = PageRun> + use<> {
    let mut taken: Vec<PageRun> = taken
        .iter()
        .filter_map(|taken| taken.intersection(range))
        .collect();
    taken.sort_unstable_by_key(|taken| taken.start);
    taken.push(PageRun::new(range.end(), 0));
    let mut from = range.start;
    taken.into_iter().filter_map(move |taken| {
        let gap = PageRun::new(from, taken.start.0.saturating_sub(from.0));
        from = taken.end();
        (!gap.is_empty()).then_some(gap)
    })
}

#[cfg(test)]
mod model;
