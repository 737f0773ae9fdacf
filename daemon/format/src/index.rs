//! Where each page of an address space is stored, while that changes.
//!
//! Pre-copy saves pages again and again; what was saved last counts. A [`PageIndexMap`] holds, for
//! every saved page, the frame with its latest content, as runs: a new run cuts what it covers out
//! of older ones, and what it displaces is told to the caller, who counts what is still alive
//! ([`crate::live::LivePages`]).
//!
//! Runs lie in leaves of at most [`LEAF_RUNS_MAX`], sorted; a look-up is two binary searches, a
//! change moves at most one leaf. A run takes 12 bytes, and at most 24 with all slack.

use lifeboat_proto::units::{PageIndex, PageRun};

use crate::{
    error::Problem,
    runs::{FramePage, PackedRun, PageRunRef, PageRuns},
};

/// Most runs in a leaf.
const LEAF_RUNS_MAX: usize = 256;

/// Leaves with fewer runs are joined with the next one when both fit.
const LEAF_RUNS_LOW: usize = LEAF_RUNS_MAX / 4;

/// The latest frame of each page.
#[derive(Clone, Debug, Default)]
pub struct PageIndexMap {
    /// None is empty. Ascending, disjoint.
    leaves: Vec<Leaf>,
    runs: usize,
    pages: u64,
}

/// Pages that a frame no longer holds the latest content of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Displaced {
    /// The frame.
    pub frame: u32,
    /// Number of pages.
    pub pages: u64,
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    runs: Vec<PackedRun>,
}

impl PageIndexMap {
    /// No page is saved.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            leaves: Vec::new(),
            runs: 0,
            pages: 0,
        }
    }

    /// Notes that the latest content of the run's pages is where the run says, and tells what that
    /// displaces.
    ///
    /// # Errors
    ///
    /// [`Problem`] for a run that cannot be stored. Nothing changes then.
    pub fn apply(
        &mut self,
        run: PageRunRef,
        displaced: impl FnMut(Displaced),
    ) -> Result<(), Problem> {
        run.check()?;
        self.remove(run.run, displaced);
        self.insert(run);
        Ok(())
    }

    /// Forgets the pages of `range` (unmapped, or zero again), and tells what that displaces.
    pub fn remove(&mut self, range: PageRun, mut displaced: impl FnMut(Displaced)) {
        if range.is_empty() {
            return;
        }
        let first = self.leaf_at(range.start);
        let mut next = first;
        while self
            .leaves
            .get(next)
            .is_some_and(|leaf| leaf.start() < range.end())
        {
            let leaf = &mut self.leaves[next];
            let before = leaf.runs.len();
            leaf.remove(range, |part| {
                self.pages -= part.pages;
                displaced(part);
            });
            self.runs = self.runs + leaf.runs.len() - before;
            next += 1;
        }
        if next == first {
            return;
        }
        // Leaves between the first and the last one lie inside the range.
        let kept = |leaf: &Leaf| usize::from(!leaf.runs.is_empty());
        let from = first + kept(&self.leaves[first]);
        let to = next - kept(&self.leaves[next - 1]);
        if from < to {
            self.leaves.drain(from..to);
        }
        // From behind, since joining moves the leaves after.
        for at in (first.saturating_sub(1)..=first + 1).rev() {
            self.settle(at);
        }
        if self.leaves.capacity() > 16 + 2 * self.leaves.len() {
            self.leaves.shrink_to(self.leaves.len());
        }
    }

    /// Where the latest content of `page` is.
    #[must_use]
    pub fn lookup(&self, page: PageIndex) -> Option<FramePage> {
        let runs = &self.leaves.get(self.leaf_at(page))?.runs;
        let after = runs.partition_point(|run| run.start() <= page);
        runs[after.checked_sub(1)?].get().page(page)
    }

    /// All runs, in the order of addresses.
    pub fn iter(&self) -> impl Iterator<Item = PageRunRef> + '_ {
        self.leaves
            .iter()
            .flat_map(|leaf| &leaf.runs)
            .map(|run| run.get())
    }

    /// The parts of runs that lie inside `range`, in the order of addresses.
    pub fn within(&self, range: PageRun) -> impl Iterator<Item = PageRunRef> + '_ {
        self.leaves[self.leaf_at(range.start)..]
            .iter()
            .take_while(move |leaf| leaf.start() < range.end())
            .flat_map(move |leaf| leaf.runs[leaf.overlapping(range)].iter())
            .filter_map(move |run| run.get().within(range))
    }

    /// Number of runs.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.runs
    }

    /// Whether no page is saved.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Number of saved pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Memory that it takes, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let leaves = self.leaves.capacity() * size_of::<Leaf>();
        let runs: usize = self.leaves.iter().map(|leaf| leaf.runs.capacity()).sum();
        leaves + runs * size_of::<PackedRun>()
    }

    /// The runs as a manifest holds them.
    #[must_use]
    pub fn to_runs(&self) -> PageRuns {
        let mut runs = PageRuns::new();
        runs.reserve(self.runs);
        for run in self.iter() {
            runs.push(run)
                .expect("runs of an index are valid and ascending");
        }
        runs
    }

    /// Number of the leaf where `page` is or would be: the last that does not begin after it.
    fn leaf_at(&self, page: PageIndex) -> usize {
        self.leaves
            .partition_point(|leaf| leaf.start() <= page)
            .saturating_sub(1)
    }

    /// Puts in a run whose pages are in no other run.
    fn insert(&mut self, run: PageRunRef) {
        if self.leaves.is_empty() {
            self.leaves.push(Leaf::default());
        }
        let at = self.leaf_at(run.run.start);
        let leaf = &mut self.leaves[at];
        let before = leaf.runs.len();
        leaf.insert(run);
        self.runs = self.runs + leaf.runs.len() - before;
        self.pages += run.run.pages;
        self.settle(at);
    }

    /// Splits a leaf that is too large, joins one that is too small with the next.
    fn settle(&mut self, at: usize) {
        let Some(leaf) = self.leaves.get_mut(at) else {
            return;
        };
        let len = leaf.runs.len();
        if len > LEAF_RUNS_MAX {
            // Memory is mostly saved in the order of addresses: keep full what will not grow.
            let rising = at + 1 == self.leaves.len();
            let keep = if rising { len - LEAF_RUNS_LOW } else { len / 2 };
            let leaf = &mut self.leaves[at];
            let upper = Leaf {
                runs: leaf.runs[keep..].to_vec(),
            };
            leaf.runs.truncate(keep);
            leaf.shrink();
            self.leaves.insert(at + 1, upper);
        } else if len < LEAF_RUNS_LOW
            && self
                .leaves
                .get(at + 1)
                .is_some_and(|next| len + next.runs.len() <= LEAF_RUNS_MAX / 2)
        {
            let next = self.leaves.remove(at + 1);
            self.leaves[at].runs.reserve_exact(next.runs.len());
            self.leaves[at].runs.extend(next.runs);
        }
    }
}

impl Leaf {
    /// The first page of a leaf that is not empty.
    fn start(&self) -> PageIndex {
        self.runs
            .first()
            .map_or(PageIndex(u64::MAX), |run| run.start())
    }

    /// Numbers of the runs that have pages in `range`.
    fn overlapping(&self, range: PageRun) -> std::ops::Range<usize> {
        let first = self.runs.partition_point(|run| run.end() <= range.start);
        let last = self.runs.partition_point(|run| run.start() < range.end());
        first..last.max(first)
    }

    fn remove(&mut self, range: PageRun, mut displaced: impl FnMut(Displaced)) {
        let cut = self.overlapping(range);
        if cut.is_empty() {
            return;
        }
        for run in &self.runs[cut.clone()] {
            if let Some(part) = run.get().within(range) {
                displaced(Displaced {
                    frame: part.frame,
                    pages: part.run.pages,
                });
            }
        }
        let before = PageRun::new(PageIndex(0), range.start.0);
        let after = PageRun::new(range.end(), u64::MAX - range.end().0);
        let left = self.runs[cut.start].get().within(before);
        let right = self.runs[cut.end - 1].get().within(after);
        self.make_room();
        self.runs
            .splice(cut, left.iter().chain(&right).map(PackedRun::new));
        self.shrink();
    }

    fn insert(&mut self, run: PageRunRef) {
        let at = self
            .runs
            .partition_point(|other| other.start() < run.run.start);
        let (mut joined, mut replaced) = (run, at..at);
        if let Some(before) = at.checked_sub(1).map(|before| self.runs[before].get())
            && before.continues(&joined)
        {
            joined = before.joined(&joined);
            replaced.start -= 1;
        }
        if let Some(after) = self.runs.get(at).map(|after| after.get())
            && joined.continues(&after)
        {
            joined = joined.joined(&after);
            replaced.end += 1;
        }
        self.make_room();
        self.runs.splice(replaced, [PackedRun::new(&joined)]);
    }

    /// Room for the two runs that one change can add, in steps that waste at most a quarter.
    fn make_room(&mut self) {
        if self.runs.capacity() - self.runs.len() < 2 {
            self.runs.reserve_exact(2 + self.runs.len() / 4);
        }
    }

    /// Gives memory back after many runs went.
    fn shrink(&mut self) {
        let enough = 4 + self.runs.len() + self.runs.len() / 4;
        if self.runs.capacity() > enough {
            self.runs.shrink_to(enough);
        }
    }
}
