//! Pages that are written again and again.
//!
//! A page that was dirty in [`Options::hot_after`](crate::Options::hot_after) rounds in a row is
//! hot: it is no longer protected, so that it costs its process nothing, and stays dirty until the
//! end. Now and then a hot page is protected again, to see whether it has cooled down; the longer it
//! has been hot, the more seldom.
//!
//! One byte for each page of the 2 MiB blocks that were written lately.

use std::{collections::BTreeMap, ops::Range};

use lifeboat_proto::units::{PageIndex, PageRun};

use crate::Runs;

/// Pages of a block.
const BLOCK: u64 = 512;

/// The states of a block's pages.
type States = [u8; 512];

/// Rounds after which a page that has just become hot is tried again.
pub const RETRY_ROUNDS: u64 = 16;

/// How often that time doubles, at most.
const LEVEL_MAX: u8 = 4;

/// Most runs that are left out of one address space's round. When there would be more, what lies
/// between neighbours is left out as well.
pub const HOT_RUNS_MAX: usize = 1 << 14;

/// State of a page: not written in the last round (0), or one of these with a number in the lower
/// bits.
const STREAK: u8 = 0x00;
const TRIED: u8 = 0x40;
const HOT: u8 = 0x80;
const KIND: u8 = 0xc0;
const NUMBER: u8 = 0x1f;

/// Reported dirty in this round; of a hot page: it has just become so.
const SEEN: u8 = 0x20;

/// How often the pages of one address space were written.
#[derive(Debug)]
pub(crate) struct Heat {
    blocks: BTreeMap<u64, Box<States>>,
    round: u64,
    /// Rounds until a page is hot; 0: never.
    hot_after: u8,
}

impl Heat {
    pub(crate) fn new(hot_after: u8) -> Self {
        Self {
            blocks: BTreeMap::new(),
            round: 0,
            hot_after: hot_after.min(NUMBER),
        }
    }

    /// Begins a round: what is to be left out of it.
    pub(crate) fn begin(&mut self) -> Runs {
        self.round += 1;
        let round = self.round;
        let mut hot = Runs::new();
        for (block, states) in &mut self.blocks {
            let due = |level: u8| (round + block).is_multiple_of(RETRY_ROUNDS << level);
            for (page, state) in (block * BLOCK..).zip(states.iter_mut()) {
                if *state & KIND == HOT {
                    if *state & SEEN == 0 && due(*state & NUMBER) {
                        *state = TRIED | *state & NUMBER;
                    } else {
                        hot.insert(PageRun::new(PageIndex(page), 1));
                    }
                }
            }
        }
        coalesce(hot, HOT_RUNS_MAX)
    }

    /// Pages that were dirty round after round.
    pub(crate) fn hot(&self) -> Runs {
        let mut hot = Runs::new();
        for (block, states) in &self.blocks {
            for (page, state) in (block * BLOCK..).zip(states.iter()) {
                if matches!(*state & KIND, HOT | TRIED) {
                    hot.insert(PageRun::new(PageIndex(page), 1));
                }
            }
        }
        coalesce(hot, HOT_RUNS_MAX)
    }

    /// A run was dirty in this round.
    pub(crate) fn see(&mut self, run: PageRun) {
        if self.hot_after == 0 {
            return;
        }
        for (block, range) in blocks(run) {
            let states = self
                .blocks
                .entry(block)
                .or_insert_with(|| Box::new([STREAK; 512]));
            states[range].iter_mut().for_each(|state| *state |= SEEN);
        }
    }

    /// Ends a round.
    pub(crate) fn end(&mut self) {
        let hot_after = self.hot_after;
        self.blocks.retain(|_, states| {
            states
                .iter_mut()
                .for_each(|state| *state = next(*state, hot_after));
            states.iter().any(|state| *state != STREAK)
        });
    }

    /// No page is hot any more.
    pub(crate) fn cool(&mut self) {
        self.blocks.clear();
    }

    /// Pages that are no longer there.
    pub(crate) fn forget(&mut self, runs: &Runs) {
        for run in runs.as_slice() {
            // A run may be larger than all that is known.
            let inside = run.start.0 / BLOCK..=run.end().0.saturating_sub(1) / BLOCK;
            for (block, states) in self.blocks.range_mut(inside) {
                let whole = PageRun::new(PageIndex(block * BLOCK), BLOCK);
                let part = whole.intersection(*run);
                for (_, range) in part.into_iter().flat_map(blocks) {
                    states[range].fill(STREAK);
                }
            }
        }
    }
}

/// The state after a round.
fn next(state: u8, hot_after: u8) -> u8 {
    let (kind, number) = (state & KIND, state & NUMBER);
    match (kind, state & SEEN != 0) {
        (HOT, _) => HOT | number,
        (TRIED, true) => HOT | SEEN | (number + 1).min(LEVEL_MAX),
        (STREAK, true) if number + 1 >= hot_after => HOT | SEEN,
        (STREAK, true) => STREAK | (number + 1),
        _ => STREAK,
    }
}

/// The blocks that a run touches, with the pages in each.
fn blocks(run: PageRun) -> impl Iterator<Item = (u64, Range<usize>)> {
    let (first, end) = (run.start.0, run.end().0);
    (first / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let inside = |page: u64| usize::try_from(page - block * BLOCK).expect("at most a block");
        let from = inside(first.max(block * BLOCK));
        (block, from..inside(end.min((block + 1) * BLOCK)))
    })
}

/// Joins neighbours until there are at most `most` runs.
fn coalesce(runs: Runs, most: usize) -> Runs {
    let (mut runs, mut gap) = (runs, 1);
    while runs.as_slice().len() > most {
        let mut joined: Vec<PageRun> = Vec::with_capacity(runs.as_slice().len());
        for run in runs.as_slice() {
            match joined.last_mut() {
                Some(last) if run.start.0 - last.end().0 <= gap => {
                    last.pages = run.end().0 - last.start.0;
                }
                _ => joined.push(*run),
            }
        }
        runs = joined.into_iter().collect();
        gap *= 2;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, pages: u64) -> PageRun {
        PageRun::new(PageIndex(start), pages)
    }

    /// A round in which the pages that are not left out are written; returns what was left out.
    fn round(heat: &mut Heat, written: PageRun) -> Runs {
        let hot = heat.begin();
        hot.missing(written).for_each(|part| heat.see(part));
        heat.end();
        hot
    }

    #[test]
    fn what_is_written_in_each_of_three_rounds_is_left_out_of_the_fourth() {
        // Whatever the turn of the blocks is.
        for before in 0..RETRY_ROUNDS {
            let mut heat = Heat::new(3);
            (0..before).for_each(|_| assert!(round(&mut heat, run(0, 0)).is_empty()));
            // Across the border of two blocks.
            let written = run(500, 24);
            for _ in 0..3 {
                assert!(round(&mut heat, written).is_empty());
            }
            assert_eq!(round(&mut heat, written).as_slice(), [written]);
        }
    }

    #[test]
    fn a_round_without_a_write_begins_anew() {
        let mut heat = Heat::new(3);
        for _ in 0..10 {
            assert!(round(&mut heat, run(0, 4)).is_empty());
            assert!(round(&mut heat, run(0, 4)).is_empty());
            assert!(round(&mut heat, run(8, 4)).is_empty());
        }
        assert!(heat.blocks.len() <= 1);
    }

    #[test]
    fn a_hot_page_is_tried_again_ever_more_seldom() {
        let mut heat = Heat::new(1);
        let mut tried = Vec::new();
        for number in 0..600 {
            if round(&mut heat, run(0, 1)).is_empty() {
                tried.push(number);
            }
        }
        let gaps: Vec<u64> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            gaps[1..].windows(2).all(|pair| pair[0] <= pair[1]),
            "{gaps:?}"
        );
        assert_eq!(gaps.last(), Some(&(RETRY_ROUNDS << LEVEL_MAX)));
    }

    #[test]
    fn a_page_that_cooled_down_is_forgotten() {
        let mut heat = Heat::new(2);
        for _ in 0..3 {
            round(&mut heat, run(0, 1));
        }
        for _ in 0..=RETRY_ROUNDS {
            round(&mut heat, run(0, 0));
        }
        assert!(heat.blocks.is_empty());
    }

    #[test]
    fn what_is_unmapped_is_forgotten() {
        let mut heat = Heat::new(1);
        round(&mut heat, run(0, 2000));
        heat.forget(&Runs::from_iter([run(100, 1 << 40)]));
        assert_eq!(round(&mut heat, run(0, 0)).as_slice(), [run(0, 100)]);
    }

    #[test]
    fn with_zero_nothing_is_ever_hot() {
        let mut heat = Heat::new(0);
        assert!((0..9).all(|_| round(&mut heat, run(0, 8)).is_empty()));
        assert!(heat.blocks.is_empty());
    }

    #[test]
    fn too_many_runs_become_fewer_and_larger() {
        let runs: Runs = (0..1000).map(|n| run(n * (2 + n % 5), 1)).collect();
        let fewer = coalesce(runs.clone(), 10);
        assert!(fewer.as_slice().len() <= 10);
        assert!(runs.minus(&fewer).is_empty());
        assert_eq!(coalesce(runs.clone(), 1000), runs);
    }
}
