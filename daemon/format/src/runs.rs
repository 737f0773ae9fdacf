//! Where each page of an address space is stored: ascending, disjoint runs of pages, 12 bytes each.
//!
//! This is the form that a manifest holds and a restore looks pages up in. It does not change once
//! built; [`crate::index::PageIndexMap`] is the form that does.

use lifeboat_proto::units::{PageIndex, PageRun};

use crate::{error::Problem, frame::FRAME_PAGES_MAX};

/// Pages of an address space of 57 bits, the largest that Linux has (x86-64 with five levels).
pub const PAGE_INDEX_END: u64 = 1 << 45;

/// Adjacent pages whose contents lie adjacent in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRunRef {
    /// The pages: at least one, at most [`FRAME_PAGES_MAX`].
    pub run: PageRun,
    /// Index of the frame.
    pub frame: u32,
    /// Index of the first page inside the frame's content.
    pub frame_page: u32,
}

/// Where the content of one page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FramePage {
    /// Index of the frame.
    pub frame: u32,
    /// Index of the page inside the frame's content.
    pub page: u32,
}

/// Ascending, disjoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRuns {
    runs: Vec<PackedRun>,
}

/// A run in 12 bytes. The first two words sort by address: 52 bits of first page, 6 bits of number
/// of pages less one, 6 bits of page in the frame. Words of 4 bytes, since 8 would need padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedRun {
    high: u32,
    low: u32,
    frame: u32,
}

const _: () = assert!(size_of::<PackedRun>() == 12);
const COUNT_BITS: u32 = 6;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const _: () = assert!(FRAME_PAGES_MAX == 1 << COUNT_BITS);
const _: () = assert!(PAGE_INDEX_END <= 1 << (64 - 2 * COUNT_BITS));

impl PageRunRef {
    /// Whether the run is one that can be stored.
    ///
    /// # Errors
    ///
    /// [`Problem`] for runs that are empty, longer than a frame, or outside of the address space
    /// or of the longest frame.
    pub fn check(&self) -> Result<(), Problem> {
        let most = FRAME_PAGES_MAX as u64;
        let end = u64::from(self.frame_page).saturating_add(self.run.pages);
        if self.run.pages == 0 {
            Err(Problem::TooSmall { found: 0, least: 1 })
        } else if end > most {
            Err(Problem::TooLarge { found: end, most })
        } else if self.run.end().0 > PAGE_INDEX_END {
            Err(Problem::Outside)
        } else {
            Ok(())
        }
    }

    /// Where `page` is, when it is one of the run's.
    #[must_use]
    pub fn page(&self, page: PageIndex) -> Option<FramePage> {
        // At most 63: runs are no longer than frames.
        let offset = u32::try_from(page.0.checked_sub(self.run.start.0)?).ok()?;
        (u64::from(offset) < self.run.pages).then(|| FramePage {
            frame: self.frame,
            page: self.frame_page + offset,
        })
    }

    /// The part of the run inside `range`.
    #[must_use]
    pub fn within(&self, range: PageRun) -> Option<Self> {
        let run = self.run.intersection(range)?;
        let FramePage { frame, page } = self.page(run.start)?;
        Some(Self {
            run,
            frame,
            frame_page: page,
        })
    }

    /// This run and `next`, which continues it.
    pub(crate) fn joined(&self, next: &Self) -> Self {
        Self {
            run: PageRun::new(self.run.start, self.run.pages + next.run.pages),
            ..*self
        }
    }

    /// Whether `next` continues this run, in memory and in the frame.
    pub(crate) fn continues(&self, next: &Self) -> bool {
        self.run.end() == next.run.start
            && self.frame == next.frame
            && u64::from(self.frame_page) + self.run.pages == u64::from(next.frame_page)
    }
}

impl PackedRun {
    /// Packs a run that passed [`PageRunRef::check`].
    pub(crate) fn new(run: &PageRunRef) -> Self {
        debug_assert!(run.check().is_ok());
        let place = (run.run.pages - 1) << COUNT_BITS | u64::from(run.frame_page);
        let word = run.run.start.0 << (2 * COUNT_BITS) | place;
        let [low, high] = halves(word);
        Self {
            high,
            low,
            frame: run.frame,
        }
    }

    /// The run.
    pub(crate) fn get(self) -> PageRunRef {
        let word = self.word();
        let pages = (word >> COUNT_BITS & COUNT_MASK) + 1;
        let frame_page = self.low & ((1 << COUNT_BITS) - 1);
        PageRunRef {
            run: PageRun::new(self.start(), pages),
            frame: self.frame,
            frame_page,
        }
    }

    /// The first page.
    pub(crate) fn start(self) -> PageIndex {
        PageIndex(self.word() >> (2 * COUNT_BITS))
    }

    /// The page after the last one.
    pub(crate) fn end(self) -> PageIndex {
        self.get().run.end()
    }

    fn word(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

/// The lower and the upper half of a word.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

impl PageRuns {
    /// No runs.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Appends a run. What continues the last run is joined with it.
    ///
    /// # Errors
    ///
    /// [`Problem`] for a run that cannot be stored or does not lie after the last one.
    pub fn push(&mut self, run: PageRunRef) -> Result<(), Problem> {
        run.check()?;
        if let Some(last) = self.runs.last_mut() {
            let before = last.get();
            if run.run.start < before.run.end() {
                return Err(Problem::NotAscending);
            }
            if before.continues(&run) {
                *last = PackedRun::new(&before.joined(&run));
                return Ok(());
            }
        }
        self.runs.push(PackedRun::new(&run));
        Ok(())
    }

    /// Makes room for `runs` more.
    pub fn reserve(&mut self, runs: usize) {
        self.runs.reserve_exact(runs);
    }

    /// Number of runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of pages in all runs.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.iter().map(|run| run.run.pages).sum()
    }

    /// Memory that it takes, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<PackedRun>()
    }

    /// The run number `at`.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<PageRunRef> {
        self.runs.get(at).map(|run| run.get())
    }

    /// The last run.
    #[must_use]
    pub fn last(&self) -> Option<PageRunRef> {
        self.runs.last().map(|run| run.get())
    }

    /// All runs, in the order of addresses.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = PageRunRef> + ExactSizeIterator + '_ {
        self.runs.iter().map(|run| run.get())
    }

    /// Where `page` is stored. `None` means that the page was zero (or is not captured).
    #[must_use]
    pub fn lookup(&self, page: PageIndex) -> Option<FramePage> {
        self.get(self.first_after(page).checked_sub(1)?)?.page(page)
    }

    /// The parts of runs that lie inside `range`, in the order of addresses.
    pub fn within(&self, range: PageRun) -> impl Iterator<Item = PageRunRef> + '_ {
        let first = self.first_after(range.start).saturating_sub(1);
        (first..self.len())
            .map_while(|at| self.get(at))
            .take_while(move |run| run.run.start < range.end())
            .filter_map(move |run| run.within(range))
    }

    /// Number of the first run that begins after `page`.
    fn first_after(&self, page: PageIndex) -> usize {
        self.runs.partition_point(|run| run.start() <= page)
    }

    /// The frames in the order in which their pages come first in memory, each once.
    pub fn frames_in_address_order(&self) -> impl Iterator<Item = u32> + '_ {
        let most = self
            .runs
            .iter()
            .map(|run| run.frame)
            .max()
            .map_or(0, |max| max as usize + 1);
        let mut seen = vec![0u64; most.div_ceil(64)];
        self.runs.iter().map(|run| run.frame).filter(move |frame| {
            let (word, bit) = (*frame as usize / 64, 1 << (frame % 64));
            let fresh = seen[word] & bit == 0;
            seen[word] |= bit;
            fresh
        })
    }

    /// The same runs with other frame numbers.
    pub(crate) fn renumber(&mut self, frame: impl Fn(u32) -> u32) {
        for run in &mut self.runs {
            run.frame = frame(run.frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, pages: u64, frame: u32, frame_page: u32) -> PageRunRef {
        PageRunRef {
            run: PageRun::new(PageIndex(start), pages),
            frame,
            frame_page,
        }
    }

    #[test]
    fn extreme_runs_keep_their_values() {
        for run in [
            run(0, 1, 0, 0),
            run(PAGE_INDEX_END - 64, 64, u32::MAX, 0),
            run(7, 1, 3, 63),
        ] {
            assert_eq!(PackedRun::new(&run).get(), run);
        }
    }

    #[test]
    fn impossible_runs_are_refused() {
        let mut runs = PageRuns::new();
        for bad in [
            run(0, 0, 0, 0),
            run(0, 65, 0, 0),
            run(0, 1, 0, 64),
            run(0, 64, 0, 1),
            run(0, u64::MAX, 0, 1),
            run(0, 1, 0, u32::MAX),
            run(PAGE_INDEX_END, 1, 0, 0),
            run(PAGE_INDEX_END - 1, 2, 0, 0),
            run(u64::MAX, 1, 0, 0),
        ] {
            assert!(runs.push(bad).is_err(), "{bad:?}");
        }
        runs.push(run(10, 5, 0, 0)).unwrap();
        assert_eq!(runs.push(run(14, 1, 0, 0)), Err(Problem::NotAscending));
        assert_eq!(runs.len(), 1);
    }

    #[test]
    fn what_continues_is_joined() {
        let mut runs = PageRuns::new();
        runs.push(run(10, 5, 1, 0)).unwrap();
        runs.push(run(15, 2, 1, 5)).unwrap();
        runs.push(run(17, 1, 1, 8)).unwrap();
        runs.push(run(18, 1, 2, 9)).unwrap();
        let all: Vec<_> = runs.iter().collect();
        assert_eq!(all, [run(10, 7, 1, 0), run(17, 1, 1, 8), run(18, 1, 2, 9)]);
    }

    #[test]
    fn pages_are_found_and_gaps_are_not() {
        let mut runs = PageRuns::new();
        for n in [run(10, 5, 3, 2), run(20, 1, 9, 0), run(30, 64, 3, 0)] {
            runs.push(n).unwrap();
        }
        assert_eq!(runs.lookup(PageIndex(9)), None);
        assert_eq!(
            runs.lookup(PageIndex(12)),
            Some(FramePage { frame: 3, page: 4 })
        );
        assert_eq!(runs.lookup(PageIndex(15)), None);
        assert_eq!(
            runs.lookup(PageIndex(93)),
            Some(FramePage { frame: 3, page: 63 })
        );
        assert_eq!(runs.lookup(PageIndex(u64::MAX)), None);
        let part: Vec<_> = runs.within(PageRun::new(PageIndex(13), 18)).collect();
        assert_eq!(part, [run(13, 2, 3, 5), run(20, 1, 9, 0), run(30, 1, 3, 0)]);
        let frames: Vec<_> = runs.frames_in_address_order().collect();
        assert_eq!(frames, [3, 9]);
        assert_eq!(runs.pages(), 70);
    }
}
