//! Page tables, from outside.

use std::collections::BTreeSet;

use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_sys::pagemap::{Categories, Entry, Pagemap, PagemapError, Query, Region};
use rustix::mm::Advice;

use crate::support::{self, Memory};

fn regions(pagemap: &Pagemap, range: PageRun, query: &Query) -> Vec<Region> {
    let mut regions = Vec::new();
    pagemap
        .scan(range, query, |region| regions.push(region))
        .unwrap();
    regions
}

fn pages_of(regions: &[Region]) -> BTreeSet<u64> {
    regions
        .iter()
        .flat_map(|region| region.run.start.0..region.run.end().0)
        .collect()
}

/// The query by hand, from plain entries.
fn dumpable_by_entries(pagemap: &Pagemap, range: PageRun, zero_frame: u64) -> BTreeSet<u64> {
    let mut entries = vec![Entry::default(); usize::try_from(range.pages).unwrap()];
    pagemap.entries(range.start, &mut entries).unwrap();
    (range.start.0..)
        .zip(&entries)
        .filter(|(_, entry)| entry.is_present() || entry.is_swapped())
        .filter(|(_, entry)| !entry.is_file_or_shared() && entry.frame() != Some(zero_frame))
        .map(|(page, _)| page)
        .collect()
}

#[test]
fn dumpable_pages_are_those_with_content_of_their_own() {
    let mut memory = Memory::new(20_000);
    // Written: every other page of the first half, and a solid block.
    for page in (0..10_000).step_by(2).chain(12_000..15_000) {
        memory.page_mut(page)[0] = 1;
    }
    // Read only: the page of zeros.
    assert_eq!(memory.bytes()[17_000 * 4096], 0);
    memory.advise(12_500, 100, Advice::LinuxDontNeed);
    let own = rustix::process::getpid();
    let pagemap = Pagemap::open(own).unwrap();
    let found = regions(&pagemap, memory.run(), &Query::DUMPABLE);

    let base = memory.run().start.0;
    let expected: BTreeSet<u64> = (0..10_000)
        .step_by(2)
        .chain(12_000..12_500)
        .chain(12_600..15_000)
        .map(|page| base + page)
        .collect();
    assert_eq!(pages_of(&found), expected);
    assert_eq!(found.len(), 5_002, "each region is reported once");
    assert!(found.is_sorted_by_key(|region| region.run.start));

    let mut zero = [Entry::default()];
    pagemap
        .entries(PageIndex(base + 17_000), &mut zero)
        .unwrap();
    let zero_frame = zero[0].frame().expect("run as root");
    assert_eq!(
        dumpable_by_entries(&pagemap, memory.run(), zero_frame),
        expected
    );
}

#[test]
fn guard_pages_have_no_content() {
    /// madvise(2), kernel 6.13; not in the libc crate.
    const MADV_GUARD_INSTALL: i32 = 102;
    let mut memory = Memory::new(8);
    for page in 0..4 {
        memory.page_mut(page)[0] = 1;
    }
    let second = memory.pointer().wrapping_add(PAGE_BYTES);
    // SAFETY: one page of this mapping, which is not touched any more.
    let made = unsafe { libc::madvise(second.cast(), PAGE_BYTES, MADV_GUARD_INSTALL) };
    let kernel_has_them = made == 0;
    let pagemap = Pagemap::open(rustix::process::getpid()).unwrap();
    let base = memory.run().start.0;
    let expected: BTreeSet<u64> = (0..4)
        .filter(|page| *page != 1 || !kernel_has_them)
        .map(|page| base + page)
        .collect();
    for query in [Query::DUMPABLE, Query::WRITTEN] {
        let found = regions(&pagemap, memory.run(), &query);
        assert_eq!(pages_of(&found), expected, "{query:?}");
    }
}

#[test]
fn categories_tell_what_pages_are() {
    let mut memory = Memory::new(10);
    memory.page_mut(2)[0] = 1;
    assert_eq!(memory.bytes()[5 * 4096], 0);
    let pagemap = Pagemap::open(rustix::process::getpid()).unwrap();
    let report = Categories::PRESENT | Categories::PFNZERO | Categories::FILE;
    let any = Query {
        any: report,
        report,
        ..Query::default()
    };
    let found = regions(&pagemap, memory.run(), &any);
    assert_eq!(
        found,
        [
            Region {
                run: memory.part(2, 1),
                categories: Categories::PRESENT
            },
            Region {
                run: memory.part(5, 1),
                categories: Categories::PRESENT | Categories::PFNZERO
            },
        ]
    );
    // A page of this program's text belongs to a file.
    let text = dumpable as *const () as usize as u64 / 4096;
    let found = regions(&pagemap, PageRun::new(PageIndex(text), 1), &any);
    assert!(found[0].categories.contains(Categories::FILE));
    fn dumpable() {}
    dumpable();
}

#[test]
fn pages_shared_after_a_fork_have_the_same_frame_until_written() {
    let mut memory = Memory::new(3);
    memory.bytes_mut().fill(7);
    let mut child = support::fork_with(|parent| {
        let start = memory.pointer();
        // SAFETY: the middle page of this child's copy.
        unsafe { start.wrapping_add(4096).write_volatile(8) };
        parent.send(0);
        parent.receive();
    });
    child.receive();
    let entries_of = |pid| {
        let mut entries = [Entry::default(); 3];
        Pagemap::open(pid)
            .unwrap()
            .entries(memory.run().start, &mut entries)
            .unwrap();
        entries
    };
    let ours = entries_of(rustix::process::getpid());
    let theirs = entries_of(child.pid);
    assert_eq!(ours[0].frame(), theirs[0].frame());
    assert!(!ours[0].is_exclusive() && !theirs[0].is_exclusive());
    assert_ne!(ours[1].frame(), theirs[1].frame());
    assert!(theirs[1].is_exclusive());
}

#[test]
fn a_process_that_is_gone_has_no_pages_and_says_so() {
    let memory = Memory::new(4);
    let mut child = support::fork_with(|parent| {
        parent.receive();
    });
    let pagemap = Pagemap::open(child.pid).unwrap();
    pagemap
        .scan(memory.run(), &Query::DUMPABLE, |_| {})
        .unwrap();
    child.send(0);
    let pid = child.pid;
    child.assert_success();
    let error = pagemap
        .scan(memory.run(), &Query::DUMPABLE, |_| {})
        .unwrap_err();
    assert!(error.is_gone(), "{error}");
    let error = pagemap
        .entries(memory.run().start, &mut [Entry::default()])
        .unwrap_err();
    assert!(error.is_gone(), "{error}");
    assert!(Pagemap::open(pid).unwrap_err().is_gone());
}

#[test]
fn untracked_memory_is_never_reported_clean() {
    let memory = Memory::new(4);
    let pagemap = Pagemap::open(rustix::process::getpid()).unwrap();
    let scan = pagemap.scan_and_protect(memory.run(), Categories::NONE, |_| {});
    assert!(
        matches!(scan, Err(PagemapError::Untracked { .. })),
        "{scan:?}"
    );
}
