//! Hides memory from CRIU, and captures it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use lifeboat_criu::{DumpDelegate, ImageError, SharedObject, Smaps};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun, RemoteAddr};
use lifeboat_sys::{
    pagemap::{Pagemap, Query},
    vm::RemoteMemory,
};
use rustix::process::Pid;

use super::hold::Hold;

pub type Pages = BTreeMap<PageIndex, Box<[u8]>>;

/// Hides all private anonymous memory of processes that it knows.
#[derive(Default)]
pub struct Hider {
    /// PIDs as this process sees them, and mappings as they were before the freeze.
    processes: BTreeMap<u32, (u32, Smaps)>,
    /// Objects of anonymous shared memory to hide: a process, and where they are mapped there.
    objects: BTreeMap<SharedObject, (u32, PageRun)>,
    frozen: AtomicBool,
    /// How often CRIU did not have to read `smaps`.
    pub short_cuts: AtomicUsize,
    pub hidden: Mutex<BTreeMap<u32, Vec<PageRun>>>,
    fail: bool,
}

impl Hider {
    /// For a tree with these processes.
    pub fn new(hold: &Hold, inner: &[u32]) -> Self {
        let process = |inner: &u32| {
            let outer = hold.outer_pid(*inner).expect("it runs");
            (*inner, (outer, Smaps::read(outer).expect("readable")))
        };
        Self {
            processes: inner.iter().map(process).collect(),
            ..Self::default()
        }
    }

    /// Hides anonymous shared memory of these processes too.
    pub fn and_shared(mut self) -> Self {
        for (outer, _) in self.processes.values() {
            let maps = fs::read_to_string(format!("/proc/{outer}/maps")).expect("readable");
            for line in maps
                .lines()
                .filter(|line| line.ends_with("/dev/zero (deleted)"))
            {
                let range = line.split(' ').next().expect("a range");
                let file = fs::metadata(format!("/proc/{outer}/map_files/{range}")).expect("there");
                let object = SharedObject {
                    device: file.dev(),
                    inode: file.ino(),
                };
                self.objects
                    .insert(object, (*outer, run(range).expect("addresses")));
            }
        }
        self
    }

    /// Knows no hidden pages.
    pub fn failing() -> Self {
        Self {
            fail: true,
            ..Self::default()
        }
    }

    pub fn was_told_of_the_freeze(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Reads the hidden pages that are there. The tree must be frozen.
    pub fn capture(&self) -> BTreeMap<u32, Pages> {
        let hidden = self.hidden.lock().expect("not poisoned");
        let capture =
            |(pid, runs): (&u32, &Vec<PageRun>)| (*pid, capture(self.processes[pid].0, runs));
        hidden.iter().map(capture).collect()
    }

    /// Reads the hidden pages of shared memory, by inode. The tree must be frozen.
    pub fn capture_objects(&self) -> BTreeMap<u64, Pages> {
        let objects = self.objects.iter();
        objects
            .map(|(object, (pid, run))| (object.inode, capture_object(*pid, *run)))
            .collect()
    }
}

impl DumpDelegate for Hider {
    fn frozen(&self) {
        assert!(!self.frozen.swap(true, Ordering::SeqCst), "told once");
    }

    fn hidden(&self, inner_pid: u32) -> Result<Vec<PageRun>, ImageError> {
        assert!(self.was_told_of_the_freeze());
        if self.fail {
            return Err("the test wants it so".into());
        }
        let process = self.processes.get(&inner_pid);
        let (outer, _) = process.ok_or_else(|| format!("no process {inner_pid}"))?;
        let runs = hideable(&fs::read_to_string(format!("/proc/{outer}/maps"))?);
        self.hidden
            .lock()
            .expect("not poisoned")
            .insert(inner_pid, runs.clone());
        Ok(runs)
    }

    fn hidden_object(&self, object: SharedObject) -> Result<Vec<PageRun>, ImageError> {
        let run = self
            .objects
            .get(&object)
            .map(|(_, run)| PageRun::new(PageIndex(0), run.pages));
        Ok(run.into_iter().collect())
    }

    fn smaps(&self, inner_pid: u32) -> Option<Vec<u8>> {
        assert!(self.was_told_of_the_freeze());
        let (outer, known) = self.processes.get(&inner_pid)?;
        let text = known.text_now(*outer).expect("readable")?;
        let slow = fs::read_to_string(format!("/proc/{outer}/smaps")).expect("readable");
        let capital = |line: &str| line.starts_with(|first: char| first.is_ascii_uppercase());
        let wanted = slow
            .lines()
            .filter(|line| line.starts_with("VmFlags:") || !capital(line));
        let lines = std::str::from_utf8(&text).expect("text").lines();
        assert!(wanted.eq(lines), "the short cut says what the file says");
        self.short_cuts.fetch_add(1, Ordering::SeqCst);
        Some(text)
    }
}

/// Private anonymous mappings that are not executable.
fn hideable(maps: &str) -> Vec<PageRun> {
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (range, protection) = (words.next()?, words.next()?);
            let (inode, name) = (words.nth(2)?, words.next().unwrap_or(""));
            let anonymous = inode == "0" && matches!(name, "" | "[heap]" | "[stack]");
            let fits = anonymous && protection.ends_with('p') && !protection.contains('x');
            fits.then_some(run(range)?)
        })
        .collect()
}

/// `START-END` of `maps`.
fn run(range: &str) -> Option<PageRun> {
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok().map(RemoteAddr);
    Some(PageRun::covering(address(start)?, address(end)?))
}

fn capture(pid: u32, runs: &[PageRun]) -> Pages {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let memory = RemoteMemory::open(pid).expect("it is there");
    let pagemap = Pagemap::open(pid).expect("it is there");
    let mut pages = Pages::new();
    for run in runs {
        let found = |region: lifeboat_sys::pagemap::Region| pages.extend(read(&memory, region.run));
        pagemap
            .scan(*run, &Query::DUMPABLE, found)
            .expect("a page table");
    }
    pages
}

/// Pages of an object that is mapped at `run`, numbered from its beginning. Zeros are left out.
fn capture_object(pid: u32, run: PageRun) -> Pages {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let memory = RemoteMemory::open(pid).expect("it is there");
    let pages = read(&memory, run).into_iter();
    pages
        .filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
        .map(|(page, bytes)| (PageIndex(page.0 - run.start.0), bytes))
        .collect()
}

fn read(memory: &RemoteMemory, run: PageRun) -> Pages {
    let mut bytes = vec![0; usize::try_from(run.bytes()).expect("small")];
    memory.read_runs(&[run], &mut bytes).expect("frozen");
    let pages = (run.start.0..run.end().0).map(PageIndex);
    pages
        .zip(bytes.chunks(PAGE_BYTES).map(Into::into))
        .collect()
}
