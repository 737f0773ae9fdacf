//! Sets of pages as runs: ascending, disjoint, and as long as they can be.

use lifeboat_proto::units::{PageIndex, PageRun};

/// A set of pages of one address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: Vec<PageRun>,
}

impl Runs {
    /// No pages.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// The runs, ascending; none is empty, and no two touch.
    #[must_use]
    pub fn as_slice(&self) -> &[PageRun] {
        &self.runs
    }

    /// Whether there is no page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.pages).sum()
    }

    /// Whether `page` is one of them.
    #[must_use]
    pub fn contains(&self, page: PageIndex) -> bool {
        self.runs
            .get(self.first_after(page))
            .is_some_and(|run| run.contains(page))
    }

    /// Adds pages. Cheap when they come in ascending order.
    pub fn insert(&mut self, run: PageRun) {
        if run.is_empty() {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if last.end() == run.start => {
                last.pages += run.pages;
                return;
            }
            Some(last) if last.end() > run.start => {}
            _ => {
                self.runs.push(run);
                return;
            }
        }
        let from = self.runs.partition_point(|one| one.end() < run.start);
        let to = from + self.runs[from..].partition_point(|one| one.start <= run.end());
        let joined = self.runs[from..to].iter().fold(run, |all, one| {
            let start = all.start.min(one.start);
            PageRun::new(start, all.end().max(one.end()).0 - start.0)
        });
        self.runs.splice(from..to, [joined]);
    }

    /// Removes pages.
    pub fn remove(&mut self, run: PageRun) {
        if run.is_empty() {
            return;
        }
        let from = self.first_after(run.start);
        let to = from + self.runs[from..].partition_point(|one| one.start < run.end());
        let mut rest = Vec::new();
        for one in &self.runs[from..to] {
            let before = PageRun::new(one.start, run.start.0.saturating_sub(one.start.0));
            let after = PageRun::new(run.end(), one.end().0.saturating_sub(run.end().0));
            rest.extend([before, after].into_iter().filter(|part| !part.is_empty()));
        }
        self.runs.splice(from..to, rest);
    }

    /// The parts of `run` that are in the set.
    pub fn within(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        self.runs[self.first_after(run.start)..]
            .iter()
            .map_while(move |one| one.intersection(run))
    }

    /// The parts of `run` that are not in the set.
    pub fn missing(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        let mut at = run.start;
        let end = PageRun::new(run.end(), 0);
        self.within(run).chain([end]).filter_map(move |known| {
            let gap = PageRun::new(at, known.start.0 - at.0);
            at = known.end();
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// The pages that are in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let runs = self.runs.iter().flat_map(|run| other.within(*run));
        Self {
            runs: runs.collect(),
        }
    }

    /// The pages that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let runs = self.runs.iter().flat_map(|run| other.missing(*run));
        Self {
            runs: runs.collect(),
        }
    }

    /// The pages that are in one of the sets.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let mut all = Self::new();
        while let Some(next) = match (a.peek(), b.peek()) {
            (Some(one), Some(two)) if one.start <= two.start => a.next(),
            (Some(_), None) => a.next(),
            _ => b.next(),
        } {
            all.insert(*next);
        }
        all
    }

    /// Index of the first run that ends after `page`.
    fn first_after(&self, page: PageIndex) -> usize {
        self.runs.partition_point(|one| one.end() <= page)
    }
}

impl FromIterator<PageRun> for Runs {
    /// In any order, overlapping or not.
    fn from_iter<I: IntoIterator<Item = PageRun>>(runs: I) -> Self {
        let mut all: Vec<PageRun> = runs.into_iter().collect();
        all.sort_unstable();
        let mut set = Self::new();
        all.into_iter().for_each(|run| set.insert(run));
        set
    }
}

impl Extend<PageRun> for Runs {
    fn extend<I: IntoIterator<Item = PageRun>>(&mut self, runs: I) {
        runs.into_iter().for_each(|run| self.insert(run));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<PageRun>> {
        let run = (0_u64..60, 0_u64..9).prop_map(|(at, len)| PageRun::new(PageIndex(at), len));
        proptest::collection::vec(run, 0..10)
    }

    fn pages<'a>(runs: impl IntoIterator<Item = &'a PageRun>) -> BTreeSet<u64> {
        let runs = runs.into_iter();
        runs.flat_map(|run| run.start.0..run.end().0).collect()
    }

    fn is_canonical(set: &Runs) -> bool {
        let runs = set.as_slice();
        runs.iter().all(|run| !run.is_empty())
            && runs.windows(2).all(|pair| pair[0].end() < pair[1].start)
    }

    proptest! {
        #[test]
        fn runs_are_a_set_of_pages(a in runs(), b in runs(), cut in runs()) {
            let (one, two): (Runs, Runs) = (a.iter().copied().collect(), b.iter().copied().collect());
            let (pa, pb) = (pages(&a), pages(&b));
            prop_assert_eq!(pages(one.as_slice()), pa.clone());
            for (set, model) in [
                (one.and(&two), &pa & &pb),
                (one.or(&two), &pa | &pb),
                (one.minus(&two), &pa - &pb),
            ] {
                prop_assert!(is_canonical(&set), "{set:?}");
                prop_assert_eq!(pages(set.as_slice()), model.clone());
                prop_assert_eq!(set.pages(), model.len() as u64);
                prop_assert!((0..80).all(|at| set.contains(PageIndex(at)) == model.contains(&at)));
            }
            let (mut set, mut model) = (one, pa);
            for run in cut {
                let inside = pages(&[run]);
                prop_assert_eq!(pages(&set.within(run).collect::<Vec<_>>()), &model & &inside);
                prop_assert_eq!(pages(&set.missing(run).collect::<Vec<_>>()), &inside - &model);
                set.remove(run);
                model = &model - &inside;
                prop_assert!(is_canonical(&set), "{set:?}");
                prop_assert_eq!(pages(set.as_slice()), model.clone());
            }
        }
    }
}
