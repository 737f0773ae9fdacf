//! A copy of other processes' memory that is made of nothing but what a tracker reports.

use std::collections::{BTreeMap, HashMap};

use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_sys::{maps, vm::RemoteMemory};
use lifeboat_track::{Runs, SpaceId, SpaceLast, TreeRound, is_tracked};
use rustix::process::Pid;

/// Pages read at once.
const PIECE: u64 = 64;

/// What was captured of one address space.
#[derive(Debug, Default)]
struct Space {
    pages: HashMap<PageIndex, Box<[u8]>>,
}

/// What was captured.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    spaces: BTreeMap<SpaceId, Space>,
}

/// What a comparison looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Compared {
    /// Pages that hold something.
    pub(crate) present: u64,
    /// Of them, those that were not captured at the end.
    pub(crate) clean: u64,
}

impl Shadow {
    /// Does what a round tells. Call it right after the round.
    pub(crate) fn follow(&mut self, round: &TreeRound) {
        for space in &round.ended {
            self.spaces.remove(space);
        }
        for one in &round.spaces {
            let space = self.spaces.entry(one.space).or_default();
            space.forget(&one.round.gone);
            space.copy(one.pid, &one.round.dirty);
        }
    }

    /// Copies what is left, of a tree that does not run, and compares all of it.
    pub(crate) fn finish(mut self, lasts: &[SpaceLast]) -> Compared {
        let mut compared = Compared::default();
        for one in lasts {
            let mut space = self.spaces.remove(&one.space).unwrap_or_default();
            space.copy(one.pid, &one.last.dirty);
            space
                .pages
                .retain(|page, _| one.last.present.contains(*page));
            space.compare(one.pid);
            compared.present += one.last.present.pages();
            compared.clean += one.last.present.minus(&one.last.dirty).pages();
        }
        compared
    }
}

impl Space {
    fn forget(&mut self, runs: &Runs) {
        if !runs.is_empty() {
            self.pages.retain(|page, _| !runs.contains(*page));
        }
    }

    fn copy(&mut self, pid: Pid, runs: &Runs) {
        // Gone meanwhile: the next round will say so.
        let Ok(memory) = RemoteMemory::open(pid) else {
            return;
        };
        for run in runs.as_slice() {
            for (page, content) in read(&memory, *run) {
                match content {
                    Some(content) => self.pages.insert(page, content),
                    None => self.pages.remove(&page),
                };
            }
        }
    }

    fn compare(&self, pid: Pid) {
        let memory = RemoteMemory::open(pid).unwrap();
        let mut wrong = Vec::new();
        for mapping in maps::read(pid)
            .unwrap()
            .iter()
            .filter(|one| is_tracked(one))
        {
            for (page, content) in read(&memory, mapping.run) {
                // A guard page.
                let Some(content) = content else { continue };
                let same = match self.pages.get(&page) {
                    Some(known) => *known == content,
                    None => content.iter().all(|byte| *byte == 0),
                };
                if !same {
                    let known = self.pages.get(&page).map(|known| known[..8].to_vec());
                    wrong.push((page, mapping.run, known, content[..8].to_vec()));
                }
            }
        }
        let pid = pid.as_raw_nonzero();
        assert!(
            wrong.is_empty(),
            "process {pid}: {} pages differ: {:x?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}

/// The pages of a run; `None` for those that cannot be read.
fn read(memory: &RemoteMemory, run: PageRun) -> Vec<(PageIndex, Option<Box<[u8]>>)> {
    let mut pages = Vec::new();
    let mut at = run.start;
    while at < run.end() {
        let piece = PageRun::new(at, PIECE.min(run.end().0 - at.0));
        let mut buffer = vec![0; usize::try_from(piece.bytes()).unwrap()];
        let whole = memory.read_runs(&[piece], &mut buffer).is_ok();
        for (index, content) in buffer.chunks_exact_mut(PAGE_BYTES).enumerate() {
            let page = at + index as u64;
            let readable = whole || memory.read_runs(&[PageRun::new(page, 1)], content).is_ok();
            pages.push((page, readable.then(|| content.into())));
        }
        at = piece.end();
    }
    pages
}
