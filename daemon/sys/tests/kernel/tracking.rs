//! The proof that write tracking misses nothing: a process that writes at random, copied while it
//! runs, equals its copy when it stops.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use lifeboat_proto::units::{PAGE_BYTES, PageRun};
use lifeboat_sys::{
    pagemap::{Categories, Pagemap, Query},
    pidfd::Pidfd,
    remote,
    uffd::{Features, Modes, Uffd},
    vm::RemoteMemory,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::mm::{Advice, MapFlags};

use crate::support::{self, Child, Memory, PATIENCE, Parent};

const PAGES: usize = 8192;
const ROUNDS: usize = 15;

/// What is known of the memory of another process, page by page.
struct Shadow<'a> {
    memory: &'a Memory,
    bytes: Vec<u8>,
}

impl Shadow<'_> {
    /// Reads `runs` into the shadow; returns the number of pages.
    fn copy(&mut self, remote: &RemoteMemory, runs: &[PageRun]) -> u64 {
        let pages: u64 = runs.iter().map(|run| run.pages).sum();
        let mut buffer = vec![0; usize::try_from(pages).unwrap() * PAGE_BYTES];
        remote.read_runs(runs, &mut buffer).unwrap();
        let mut rest = &buffer[..];
        for run in runs {
            let at = usize::try_from(run.start.0 - self.memory.run().start.0).unwrap();
            let (bytes, after) = rest.split_at(usize::try_from(run.bytes()).unwrap());
            self.bytes[at * PAGE_BYTES..][..bytes.len()].copy_from_slice(bytes);
            rest = after;
        }
        pages
    }

    /// What holds nothing any more is zeros.
    fn forget_all_but(&mut self, runs: &[PageRun]) {
        let first = self.memory.run().start;
        for page in 0..PAGES {
            let index = first + page as u64;
            let at = runs.partition_point(|run| run.end() <= index);
            if !runs.get(at).is_some_and(|run| run.contains(index)) {
                self.bytes[page * PAGE_BYTES..][..PAGE_BYTES].fill(0);
            }
        }
    }
}

/// A child whose memory is tracked from here, which then does `body`.
fn tracked(memory: &Memory, body: impl FnOnce(&mut Parent)) -> (Child, Uffd) {
    let mut child = support::fork_with(|parent| {
        parent.receive();
        body(parent);
    });
    let process = Pidfd::open(child.pid).unwrap();
    let uffd = remote::inject_userfaultfd(&process, Instant::now() + PATIENCE).unwrap();
    let has = uffd.handshake(Features::TRACKING).unwrap();
    assert!(
        has.contains(Features::TRACKING),
        "kernel 6.7 or newer is needed"
    );
    uffd.register(memory.run(), Modes::WRITE_PROTECT).unwrap();
    child.send(0);
    (child, uffd)
}

fn written(pagemap: &Pagemap, range: PageRun) -> Vec<PageRun> {
    let mut runs = Vec::new();
    pagemap
        .scan_and_protect(range, Categories::NONE, |region| runs.push(region.run))
        .unwrap();
    runs
}

fn dumpable(pagemap: &Pagemap, range: PageRun) -> Vec<PageRun> {
    let mut runs = Vec::new();
    pagemap
        .scan(range, &Query::DUMPABLE, |region| runs.push(region.run))
        .unwrap();
    runs
}

/// Writes words at random places, and drops pages now and then, until told to stop.
fn scribble(memory: &Memory, stop: &AtomicU64, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let start: *mut u64 = memory.pointer().cast();
    while stop.load(Ordering::Relaxed) == 0 {
        for _ in 0..500 {
            let word = random.random_range(0..memory.len() / 8);
            // SAFETY: in the mapping; other threads write it too, words are whole.
            unsafe { AtomicU64::from_ptr(start.wrapping_add(word)) }
                .store(random.random(), Ordering::Relaxed);
        }
        let page = random.random_range(0..PAGES - 4);
        memory.advise(page, 4, Advice::LinuxDontNeed);
    }
}

#[test]
fn a_copy_made_while_the_process_writes_is_equal_after_the_last_round() {
    let memory = Memory::new(PAGES);
    let control = Memory::with_flags(1, MapFlags::SHARED);
    // SAFETY: a word of memory shared with the child, zero at first.
    let stop = unsafe { AtomicU64::from_ptr(control.pointer().cast()) };
    let (mut child, _uffd) = tracked(&memory, |parent| {
        std::thread::scope(|scope| {
            scope.spawn(|| scribble(&memory, stop, 1));
            scribble(&memory, stop, 2);
        });
        parent.send(0);
        parent.receive();
    });
    let pagemap = Pagemap::open(child.pid).unwrap();
    let remote = RemoteMemory::open(child.pid).unwrap();
    let mut shadow = Shadow {
        memory: &memory,
        bytes: vec![0; memory.len()],
    };
    let mut copied = Vec::new();
    for _ in 0..ROUNDS {
        let runs = written(&pagemap, memory.run());
        copied.push(shadow.copy(&remote, &runs));
        // Until it has written something again, or the rounds would prove little.
        support::until(|| {
            let query = Query::WRITTEN;
            let mut pages = 0;
            pagemap
                .scan(memory.run(), &query, |region| pages += region.run.pages)
                .unwrap();
            (pages > 100).then_some(())
        });
    }
    stop.store(1, Ordering::Relaxed);
    child.receive();

    let last = written(&pagemap, memory.run());
    copied.push(shadow.copy(&remote, &last));
    assert!(
        written(&pagemap, memory.run()).is_empty(),
        "nothing is written any more"
    );
    shadow.forget_all_but(&dumpable(&pagemap, memory.run()));
    let mut truth = vec![0; memory.len()];
    remote.read_runs(&[memory.run()], &mut truth).unwrap();
    let wrong: Vec<usize> = (0..PAGES)
        .filter(|page| {
            let at = page * PAGE_BYTES;
            shadow.bytes[at..][..PAGE_BYTES] != truth[at..][..PAGE_BYTES]
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} pages differ, first {:?}; copied {copied:?}",
        wrong.len(),
        wrong[0]
    );
    assert!(copied[1..].iter().all(|pages| *pages > 0), "{copied:?}");
}

#[test]
fn protecting_what_was_written_makes_no_holes_look_swapped() {
    let memory = Memory::new(PAGES);
    let (mut child, _uffd) = tracked(&memory, |parent| {
        for page in (0..PAGES).step_by(64) {
            // SAFETY: in the mapping.
            unsafe {
                memory
                    .pointer()
                    .wrapping_add(page * PAGE_BYTES)
                    .write_volatile(1)
            };
        }
        parent.send(0);
        parent.receive();
    });
    child.receive();
    let pagemap = Pagemap::open(child.pid).unwrap();
    let before = dumpable(&pagemap, memory.run());
    assert_eq!(before.len(), PAGES / 64);
    assert_eq!(
        written(&pagemap, memory.run()),
        before,
        "the first scan reports every page"
    );
    assert_eq!(dumpable(&pagemap, memory.run()), before);
    assert!(written(&pagemap, memory.run()).is_empty());
}

#[test]
fn a_mapping_that_came_later_is_refused_and_not_clean() {
    let memory = Memory::new(8);
    let (mut child, uffd) = tracked(&memory, |parent| {
        parent.send(0);
        parent.receive();
    });
    child.receive();
    let pagemap = Pagemap::open(child.pid).unwrap();
    assert!(written(&pagemap, memory.run()).is_empty());
    uffd.unregister(memory.part(4, 4)).unwrap();
    let scan = pagemap.scan_and_protect(memory.run(), Categories::NONE, |_| {});
    assert!(scan.is_err());
    assert!(written(&pagemap, memory.part(0, 4)).is_empty());
}
