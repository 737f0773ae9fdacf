//! What was captured of one address space, found by page and by frame. Never changes; processes
//! that were forked while loading share it with their parent.

use std::ops::Range;

use lifeboat_proto::units::{PageIndex, PageRun};

use crate::{Run, Space};

/// A captured page's place in the order of all captured pages of its space.
pub(crate) type Ordinal = u32;

/// The index of one [`Space`].
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) pid: u32,
    /// Ascending and disjoint, see [`Space::validate`].
    runs: Vec<Run>,
    /// The ordinal of each run's first page.
    ordinals: Vec<Ordinal>,
    pages: u32,
    /// Numbers of runs, ascending by their frames.
    by_frame: Vec<u32>,
    pub(crate) hot: Vec<PageRun>,
    pub(crate) lazy: Vec<PageRun>,
    pub(crate) wiped_on_fork: Vec<PageRun>,
}

impl Layout {
    /// The index of a space that was validated.
    pub(crate) fn new(space: Space) -> Self {
        let Space {
            pid,
            runs,
            hot,
            lazy,
            wiped_on_fork,
        } = space;
        let mut pages = 0;
        let ordinals = runs
            .iter()
            .map(|run| {
                let first = pages;
                pages += run.pages;
                first
            })
            .collect();
        let mut by_frame: Vec<u32> = (0..).take(runs.len()).collect();
        by_frame.sort_by_key(|&run| (runs[run as usize].frame, run));
        Self {
            pid,
            runs,
            ordinals,
            pages,
            by_frame,
            hot,
            lazy,
            wiped_on_fork,
        }
    }

    /// Number of captured pages.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// All runs, ascending by address.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs of a frame.
    pub(crate) fn of_frame(&self, frame: u32) -> impl Iterator<Item = Run> + '_ {
        let of = |at: &u32| self.runs[*at as usize];
        let first = self.by_frame.partition_point(|at| of(at).frame < frame);
        self.by_frame[first..]
            .iter()
            .map(of)
            .take_while(move |run| run.frame == frame)
    }

    /// The run that holds a page.
    pub(crate) fn find(&self, page: PageIndex) -> Option<Run> {
        let after = self.runs.partition_point(|run| run.start <= page);
        let run = self.runs[..after].last()?;
        run.pages().contains(page).then_some(*run)
    }

    /// Captured pages before `page`.
    pub(crate) fn ordinal(&self, page: PageIndex) -> Ordinal {
        let after = self.runs.partition_point(|run| run.start <= page);
        let Some(at) = after.checked_sub(1) else {
            return 0;
        };
        let run = self.runs[at];
        let into = page.0.saturating_sub(run.start.0).min(u64::from(run.pages));
        self.ordinals[at] + u32::try_from(into).expect("not more than the run's pages, a u32")
    }

    /// The ordinals of the captured pages in `range`.
    pub(crate) fn ordinals(&self, range: PageRun) -> Range<Ordinal> {
        self.ordinal(range.start)..self.ordinal(range.end())
    }

    /// The runs that touch `range`, cut to it.
    pub(crate) fn within(&self, range: PageRun) -> impl Iterator<Item = Run> + '_ {
        let first = self
            .runs
            .partition_point(|run| run.pages().end() <= range.start);
        self.runs[first..]
            .iter()
            .map_while(move |run| cut(*run, range))
    }

    /// The run of the captured pages with these ordinals, which must lie in one run of frame pages.
    pub(crate) fn at(&self, ordinals: Range<Ordinal>) -> Option<Run> {
        let after = self
            .ordinals
            .partition_point(|first| *first <= ordinals.start);
        let at = after.checked_sub(1)?;
        let into = ordinals.start - self.ordinals[at];
        let run = self.runs[at];
        Some(Run {
            start: run.start + u64::from(into),
            pages: (ordinals.end - ordinals.start).min(run.pages.checked_sub(into)?),
            frame: run.frame,
            frame_page: run.frame_page + into,
        })
    }
}

/// The part of `run` that lies in `range`.
fn cut(run: Run, range: PageRun) -> Option<Run> {
    let both = run.pages().intersection(range)?;
    let into = u32::try_from(both.start.0 - run.start.0).ok()?;
    Some(Run {
        start: both.start,
        pages: u32::try_from(both.pages).ok()?,
        frame: run.frame,
        frame_page: run.frame_page + into,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let run = |start, pages, frame, frame_page| Run {
            start: PageIndex(start),
            pages,
            frame,
            frame_page,
        };
        Layout::new(Space {
            pid: 1,
            runs: vec![run(10, 4, 7, 0), run(14, 2, 3, 5), run(100, 1, 7, 4)],
            ..Space::default()
        })
    }

    #[test]
    fn pages_are_found_by_address_and_by_frame() {
        let layout = layout();
        assert_eq!(layout.pages(), 7);
        assert_eq!(layout.find(PageIndex(9)), None);
        assert_eq!(layout.find(PageIndex(15)).unwrap().frame, 3);
        assert_eq!(layout.find(PageIndex(16)), None);
        assert_eq!(
            layout
                .of_frame(7)
                .map(|run| run.start.0)
                .collect::<Vec<_>>(),
            [10, 100]
        );
        assert_eq!(layout.of_frame(4).count(), 0);
    }

    #[test]
    fn ordinals_count_captured_pages_only() {
        let layout = layout();
        let range = |start, pages| layout.ordinals(PageRun::new(PageIndex(start), pages));
        assert_eq!(range(0, 10), 0..0);
        assert_eq!(range(0, 1000), 0..7);
        assert_eq!(range(12, 3), 2..5);
        assert_eq!(range(16, 84), 6..6);
        assert_eq!(range(100, 1), 6..7);
        assert_eq!(layout.at(5..6).unwrap().start, PageIndex(15));
        assert_eq!(layout.at(5..6).unwrap().frame_page, 6);
        let cut: Vec<_> = layout.within(PageRun::new(PageIndex(13), 2)).collect();
        assert_eq!(
            (cut[0].start.0, cut[0].pages, cut[0].frame_page),
            (13, 1, 3)
        );
        assert_eq!(
            (cut[1].start.0, cut[1].pages, cut[1].frame_page),
            (14, 1, 5)
        );
        assert_eq!(cut.len(), 2);
    }
}
