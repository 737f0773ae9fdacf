//! What is saved of one address space, or of one object of shared memory.
//!
//! A page is in one of these states: *known* (its latest content is in a frame, or it held zeros when
//! it was read), *pending* (reported dirty since), or neither: never seen. Only what is known need not
//! be read at the freeze.

use std::{collections::BTreeMap, sync::Arc};

use lifeboat_format::{error::Problem, index::PageIndexMap, runs::PageRunRef};
use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::{
    shmem::SharedObject,
    vm::{RemoteMemory, VmError},
};
use lifeboat_track::{ContentHash, Contents, Mode, Round, Runs};
use rustix::process::Pid;

use super::stored::{Renumbered, Stored};
use crate::pipeline::Source;

/// Whose it is.
#[derive(Debug)]
enum Owner {
    Process(Pid, Option<Arc<RemoteMemory>>),
    Object(Arc<SharedObject>),
}

/// One address space, or one object.
#[derive(Debug)]
pub(crate) struct Saved {
    owner: Owner,
    pub(crate) mode: Mode,
    pub(crate) why: Option<String>,
    index: PageIndexMap,
    zero: Runs,
    contents: Contents,
    /// To be captured.
    pub(crate) pending: Runs,
    /// To be captured even if they hold what is stored: it is to be stored elsewhere.
    forced: Runs,
    /// To be compared with what is stored, when there is time.
    pub(crate) unchecked: Runs,
    /// Could not be read; tried again after the next round, which tells whether they are there.
    lost: Runs,
    pub(crate) hot_pages: u64,
    pub(crate) untracked_pages: u64,
    pub(crate) tracked_pages: u64,
}

impl Saved {
    /// Nothing is saved of a process.
    pub(crate) const fn new(pid: Pid) -> Self {
        Self::of(Owner::Process(pid, None), Mode::Everything)
    }

    /// Nothing is saved of an object.
    pub(crate) const fn of_object(object: Arc<SharedObject>) -> Self {
        Self::of(Owner::Object(object), Mode::Hash)
    }

    const fn of(owner: Owner, mode: Mode) -> Self {
        Self {
            owner,
            mode,
            why: None,
            index: PageIndexMap::new(),
            zero: Runs::new(),
            contents: Contents::new(),
            pending: Runs::new(),
            forced: Runs::new(),
            unchecked: Runs::new(),
            lost: Runs::new(),
            hot_pages: 0,
            untracked_pages: 0,
            tracked_pages: 0,
        }
    }

    /// The process, if it is one's.
    pub(crate) const fn pid(&self) -> Option<u32> {
        match &self.owner {
            Owner::Process(pid, _) => Some(pid.as_raw_nonzero().get().unsigned_abs()),
            Owner::Object(_) => None,
        }
    }

    /// Where it is read. `inner` has the numbers of processes inside.
    pub(crate) fn source(&mut self, inner: &BTreeMap<u32, u32>) -> Result<Source, VmError> {
        let number = self.pid();
        match &mut self.owner {
            Owner::Object(object) => Ok(Source::of_object(object)),
            Owner::Process(pid, memory) => {
                let memory = match memory {
                    Some(memory) => Arc::clone(memory),
                    None => Arc::clone(memory.insert(Arc::new(RemoteMemory::open(*pid)?))),
                };
                let number = number.unwrap_or_default();
                let pid = inner.get(&number).copied().unwrap_or(number);
                Ok(Source::Process { pid, memory })
            }
        }
    }

    /// What a round of the tracker tells.
    pub(crate) fn note(&mut self, round: &Round, stored: &mut Stored) {
        for run in round.gone.as_slice() {
            self.forget(*run, stored);
        }
        let lost = std::mem::take(&mut self.lost);
        let pending = self.pending.or(&lost).minus(&round.gone);
        self.pending = pending.or(&round.dirty);
        self.forced = self.forced.minus(&round.gone);
        self.hot_pages = round.hot_pages;
        self.untracked_pages = round.untracked.pages();
        self.tracked_pages = round.tracked_pages;
    }

    /// The pages that an object has now. Those that it has no more are zeros; those that are new are
    /// to be captured.
    pub(crate) fn note_present(&mut self, present: &Runs, stored: &mut Stored) {
        let (captured, _) = self.captured_and_known();
        for run in captured.minus(present).as_slice() {
            self.forget(*run, stored);
        }
        self.lost = Runs::new();
        self.forced = self.forced.and(present);
        self.unchecked = self.unchecked.and(present);
        let pending = self.pending.and(present);
        self.pending = pending.or(&present.minus(&captured));
        self.tracked_pages = present.pages();
    }

    /// All that is stored is to be compared.
    pub(crate) fn check_all(&mut self) {
        let (_, known) = self.captured_and_known();
        self.unchecked = known;
    }

    /// The pages of a run hold nothing that is stored.
    fn forget(&mut self, run: PageRun, stored: &mut Stored) {
        self.index.remove(run, |part| stored.displace(part));
        self.contents.forget(run);
        self.zero.remove(run);
    }

    /// The whole address space is gone.
    pub(crate) fn end(&mut self, stored: &mut Stored) {
        let runs: Vec<PageRunRef> = self.index.iter().collect();
        for run in runs {
            self.index.remove(run.run, |part| stored.displace(part));
        }
    }

    /// The latest content of a run is in a frame.
    pub(crate) fn keep(&mut self, run: PageRunRef, stored: &mut Stored) -> Result<(), Problem> {
        self.index.apply(run, |part| stored.displace(part))?;
        stored.live.add(run.frame, run.run.pages);
        self.zero.remove(run.run);
        // Until its hash is told.
        self.contents.forget(run.run);
        Ok(())
    }

    /// The pages of a run hold zeros.
    pub(crate) fn keep_zero(&mut self, run: PageRun, stored: &mut Stored) {
        self.forget(run, stored);
        self.zero.insert(run);
    }

    /// The content of a page that was kept.
    pub(crate) fn keep_hash(&mut self, page: PageIndex, hash: ContentHash) {
        self.contents.set(page, hash);
    }

    /// Number of pages whose content is known by its hash.
    pub(crate) const fn hashed_pages(&self) -> u64 {
        self.contents.pages()
    }

    /// What is stored of a page, to be compared with what it holds.
    pub(crate) fn hash(&self, page: PageIndex) -> Option<ContentHash> {
        if self.forced.contains(page) {
            return None;
        }
        self.contents.get(page)
    }

    /// Takes at most `pages` of what is to be captured.
    pub(crate) fn take_pending(&mut self, pages: u64) -> Runs {
        let taken = first(&self.pending, pages);
        self.pending = self.pending.minus(&taken);
        taken
    }

    /// Takes at most `pages` of what is to be compared.
    pub(crate) fn take_unchecked(&mut self, pages: u64) -> Runs {
        let taken = first(&self.unchecked, pages);
        self.unchecked = self.unchecked.minus(&taken);
        taken
    }

    /// What was taken was not compared.
    pub(crate) fn put_back_unchecked(&mut self, taken: &Runs) {
        self.unchecked = self.unchecked.or(taken);
    }

    /// What was taken was captured.
    pub(crate) fn captured(&mut self, taken: &Runs) {
        self.forced = self.forced.minus(taken);
    }

    /// What was taken could not be read.
    pub(crate) fn lose(&mut self, run: PageRun) {
        self.lost.insert(run);
    }

    /// What was taken was not captured.
    pub(crate) fn put_back(&mut self, taken: &Runs) {
        self.pending = self.pending.or(taken);
    }

    /// Captures anew what lies in some frames.
    pub(crate) fn empty(&mut self, is_emptied: impl Fn(u32) -> bool) {
        let runs: Runs = self
            .index
            .iter()
            .filter(|run| is_emptied(run.frame))
            .map(|run| run.run)
            .collect();
        self.pending = self.pending.or(&runs);
        self.forced = self.forced.or(&runs);
    }

    /// Pages that were captured some time, and those of them that need not be read: that are not
    /// pending.
    pub(crate) fn captured_and_known(&self) -> (Runs, Runs) {
        let stored: Runs = self.index.iter().map(|run| run.run).collect();
        let captured = stored.or(&self.zero);
        let known = captured.minus(&self.pending.or(&self.lost));
        (captured, known)
    }

    /// Whether a page is known, pending or not.
    pub(crate) fn known_pages_within(&self, run: PageRun) -> u64 {
        let stored: u64 = self.index.within(run).map(|part| part.run.pages).sum();
        let zero: u64 = self.zero.within(run).map(|part| part.pages).sum();
        stored + zero
    }

    /// Where the content of the pages of a run is stored.
    pub(crate) fn within(&self, run: PageRun) -> impl Iterator<Item = PageRunRef> + '_ {
        self.index.within(run)
    }

    /// Memory that the books of this address space take, in bytes.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let runs =
            [&self.zero, &self.pending, &self.forced, &self.lost].map(|runs| runs.as_slice().len());
        let runs = runs.iter().sum::<usize>() * size_of::<PageRun>();
        let hashes = self.contents.pages() * 17;
        (self.index.heap_bytes() + runs) as u64 + hashes
    }

    /// Frames have new numbers.
    pub(crate) fn renumber(&mut self, numbers: &Renumbered) {
        let mut index = PageIndexMap::new();
        for run in self.index.iter() {
            let Some(frame) = numbers.frame(run.frame) else {
                debug_assert!(false, "a frame in use is never dropped");
                continue;
            };
            let run = PageRunRef { frame, ..run };
            index
                .apply(run, |_| {})
                .expect("the same run with another number");
        }
        self.index = index;
    }
}

/// The first `pages` of some runs.
fn first(runs: &Runs, pages: u64) -> Runs {
    let mut taken = Runs::new();
    let mut left = pages;
    for run in runs.as_slice() {
        if left == 0 {
            break;
        }
        let part = PageRun::new(run.start, run.pages.min(left));
        taken.insert(part);
        left -= part.pages;
    }
    taken
}
