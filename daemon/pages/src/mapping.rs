//! Where the pages of a running address space come from.
//!
//! The restored process moves its mappings while they are loaded. A [`Mapping`] remembers for each
//! present address where that memory was at the freeze, in both directions. Present addresses are
//! disjoint, and so are captured ones: private memory is in one place only.

use std::collections::BTreeMap;

use lifeboat_proto::units::{PageIndex, PageRun};

/// What pages of a mapping were at the freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The pages that began here.
    Captured(PageIndex),
    /// Nothing: they came into being later.
    Fresh,
    /// Nothing: they were moved away. That the place was unmapped is reported later, if it was.
    Left,
}

/// Adjacent pages of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where they are now.
    pub(crate) now: PageRun,
    /// What they were.
    pub(crate) origin: Origin,
}

impl Piece {
    /// The pages at the freeze.
    pub(crate) fn captured(self) -> Option<PageRun> {
        match self.origin {
            Origin::Captured(start) => Some(PageRun::new(start, self.now.pages)),
            Origin::Fresh | Origin::Left => None,
        }
    }

    /// The part that is in `range` now.
    pub(crate) fn cut(self, range: PageRun) -> Option<Self> {
        let now = self.now.intersection(range)?;
        let into = now.start.0 - self.now.start.0;
        let origin = match self.origin {
            Origin::Captured(start) => Origin::Captured(start + into),
            other => other,
        };
        Some(Self { now, origin })
    }

    /// The part that was in `range` at the freeze.
    pub(crate) fn cut_captured(self, range: PageRun) -> Option<Self> {
        let captured = self.captured()?;
        let both = captured.intersection(range)?;
        let into = both.start.0 - captured.start.0;
        self.cut(PageRun::new(self.now.start + into, both.pages))
    }

    /// The same pages, when what began at `from` begins at `to`.
    pub(crate) fn moved(self, from: PageIndex, to: PageIndex) -> Self {
        let start = PageIndex(to.0.saturating_add(self.now.start.0.saturating_sub(from.0)));
        Self {
            now: PageRun::new(start, self.now.pages),
            origin: self.origin,
        }
    }

    /// Both as one, if `next` continues this one.
    fn joined(self, next: Self) -> Option<Self> {
        let adjacent = self.now.end() == next.now.start;
        let continues = match (self.captured(), next.origin) {
            (Some(captured), Origin::Captured(start)) => captured.end() == start,
            (None, origin) => self.origin == origin,
            _ => false,
        };
        let now = PageRun::new(self.now.start, self.now.pages + next.now.pages);
        (adjacent && continues).then_some(Self {
            now,
            origin: self.origin,
        })
    }
}

/// Disjoint pieces, found by present and by captured address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapping {
    now: BTreeMap<PageIndex, Piece>,
    captured: BTreeMap<PageIndex, Piece>,
}

impl Mapping {
    /// Adds a piece to a place that is free.
    pub(crate) fn insert(&mut self, mut piece: Piece) {
        if piece.now.is_empty() {
            return;
        }
        debug_assert!(
            self.pieces(piece.now).next().is_none(),
            "the place is taken"
        );
        if let Some((_, &before)) = self.now.range(..piece.now.start).next_back()
            && let Some(joined) = before.joined(piece)
        {
            self.forget(before);
            piece = joined;
        }
        if let Some((_, &after)) = self.now.range(piece.now.end()..).next()
            && let Some(joined) = piece.joined(after)
        {
            self.forget(after);
            piece = joined;
        }
        self.remember(piece);
    }

    /// Removes what is in `range`; answers what it was, ascending.
    pub(crate) fn take(&mut self, range: PageRun) -> Vec<Piece> {
        let touched: Vec<Piece> = self.touching(range).collect();
        let mut taken = Vec::with_capacity(touched.len());
        for piece in touched {
            self.forget(piece);
            let before = range.start.0.saturating_sub(piece.now.start.0);
            let left = piece.cut(PageRun::new(piece.now.start, before));
            let after = piece.now.end().0.saturating_sub(range.end().0);
            let right = piece.cut(PageRun::new(range.end(), after));
            for rest in left.into_iter().chain(right) {
                self.remember(rest);
            }
            taken.extend(piece.cut(range));
        }
        taken
    }

    /// The piece that a page belongs to.
    pub(crate) fn find(&self, page: PageIndex) -> Option<Piece> {
        let (_, piece) = self.now.range(..=page).next_back()?;
        piece.now.contains(page).then_some(*piece)
    }

    /// What is in `range` now, cut to it, ascending.
    pub(crate) fn pieces(&self, range: PageRun) -> impl Iterator<Item = Piece> + '_ {
        self.touching(range)
            .filter_map(move |piece| piece.cut(range))
    }

    /// All pieces, ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = Piece> + '_ {
        self.now.values().copied()
    }

    /// Where the pages are now that were in `range` at the freeze.
    pub(crate) fn places(&self, range: PageRun) -> impl Iterator<Item = Piece> + '_ {
        let before = self.captured.range(..range.start).next_back();
        let inside = self
            .captured
            .range(range.start..range.end().max(range.start));
        before
            .into_iter()
            .chain(inside)
            .filter_map(move |(_, piece)| piece.cut_captured(range))
    }

    fn touching(&self, range: PageRun) -> impl Iterator<Item = Piece> + '_ {
        let before = self.now.range(..range.start).next_back();
        let inside = self.now.range(range.start..range.end().max(range.start));
        before
            .into_iter()
            .chain(inside)
            .map(|(_, piece)| *piece)
            .filter(move |piece| piece.now.intersection(range).is_some())
    }

    fn remember(&mut self, piece: Piece) {
        self.now.insert(piece.now.start, piece);
        if let Origin::Captured(start) = piece.origin {
            self.captured.insert(start, piece);
        }
    }

    fn forget(&mut self, piece: Piece) {
        self.now.remove(&piece.now.start);
        if let Origin::Captured(start) = piece.origin {
            self.captured.remove(&start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn run(start: u64, pages: u64) -> PageRun {
        PageRun::new(PageIndex(start), pages)
    }

    fn step() -> impl Strategy<Value = (bool, u64, u64, u64)> {
        (any::<bool>(), 0_u64..60, 1_u64..20, 0_u64..60)
    }

    proptest! {
        /// Against a table of pages.
        #[test]
        fn moving_pages_keeps_where_they_came_from(steps in proptest::collection::vec(step(), 0..40)) {
            let mut mapping = Mapping::default();
            mapping.insert(Piece { now: run(0, 60), origin: Origin::Captured(PageIndex(1000)) });
            let mut model: BTreeMap<u64, u64> = (0..60).map(|page| (page, 1000 + page)).collect();
            for (moves, from, pages, to) in steps {
                let taken = mapping.take(run(from, pages));
                let gone: Vec<(u64, u64)> =
                    (from..from + pages).filter_map(|p| model.remove(&p).map(|c| (p, c))).collect();
                if moves {
                    mapping.take(run(to, pages));
                    model.retain(|page, _| !(to..to + pages).contains(page));
                    for piece in &taken {
                        mapping.insert(piece.moved(PageIndex(from), PageIndex(to)));
                    }
                    model.extend(gone.iter().map(|(page, was)| (page - from + to, *was)));
                }
                let flat: Vec<u64> = taken.iter().flat_map(|piece| {
                    (0..piece.now.pages).map(|at| piece.captured().unwrap().start.0 + at)
                }).collect();
                prop_assert_eq!(flat, gone.iter().map(|(_, was)| *was).collect::<Vec<_>>());
            }
            for page in 0..90 {
                let was = mapping.find(PageIndex(page)).map(|piece| {
                    piece.captured().unwrap().start.0 + page - piece.now.start.0
                });
                prop_assert_eq!(was, model.get(&page).copied());
            }
            for was in 1000..1060 {
                let places: Vec<u64> = mapping.places(run(was, 1)).map(|p| p.now.start.0).collect();
                let expected: Vec<u64> =
                    model.iter().filter(|(_, w)| **w == was).map(|(p, _)| *p).collect();
                prop_assert_eq!(places, expected);
            }
        }
    }
}
