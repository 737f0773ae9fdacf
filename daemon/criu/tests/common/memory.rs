//! Hides private anonymous memory from CRIU, and captures it.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use lifeboat_criu::{DumpDelegate, ImageError};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun, RemoteAddr};
use lifeboat_sys::{
    pagemap::{Pagemap, Query},
    vm::RemoteMemory,
};
use rustix::process::Pid;

use super::hold::Hold;

pub type Pages = BTreeMap<PageIndex, Box<[u8]>>;

/// Hides all it can, of processes that it can find.
#[derive(Default)]
pub struct Hider {
    outer: Mutex<BTreeMap<u32, u32>>,
    frozen: AtomicBool,
    pub hidden: Mutex<BTreeMap<u32, Vec<PageRun>>>,
    fail: bool,
}

impl Hider {
    /// For a tree with these processes.
    pub fn new(hold: &Hold, inner: &[u32]) -> Arc<Self> {
        let outer = inner
            .iter()
            .map(|pid| (*pid, hold.outer_pid(*pid).expect("it runs")));
        Arc::new(Self {
            outer: Mutex::new(outer.collect()),
            ..Self::default()
        })
    }

    /// Knows no hidden pages.
    pub fn failing() -> Arc<Self> {
        Arc::new(Self {
            fail: true,
            ..Self::default()
        })
    }

    pub fn was_told_of_the_freeze(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Reads the hidden pages that are there. The tree must be frozen.
    pub fn capture(&self) -> BTreeMap<u32, Pages> {
        let hidden = self.hidden.lock().expect("not poisoned");
        let outer = self.outer.lock().expect("not poisoned");
        hidden
            .iter()
            .map(|(pid, runs)| (*pid, capture(outer[pid], runs)))
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
        let outer = self.outer.lock().expect("not poisoned");
        let outer = outer
            .get(&inner_pid)
            .ok_or_else(|| format!("no process {inner_pid}"))?;
        let runs = hideable(&fs::read_to_string(format!("/proc/{outer}/maps"))?);
        self.hidden
            .lock()
            .expect("not poisoned")
            .insert(inner_pid, runs.clone());
        Ok(runs)
    }
}

/// Private anonymous mappings that are not executable.
fn hideable(maps: &str) -> Vec<PageRun> {
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (range, protection) = (words.next()?, words.next()?);
            let (inode, name) = (words.nth(2)?, words.next().unwrap_or(""));
            let (start, end) = range.split_once('-')?;
            let address = |text| u64::from_str_radix(text, 16).ok().map(RemoteAddr);
            let anonymous =
                inode == "0" && (name.is_empty() || name == "[heap]" || name == "[stack]");
            let fits = anonymous && protection.ends_with('p') && !protection.contains('x');
            fits.then_some(PageRun::covering(address(start)?, address(end)?))
        })
        .collect()
}

fn capture(pid: u32, runs: &[PageRun]) -> Pages {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let memory = RemoteMemory::open(pid).expect("it is there");
    let pagemap = Pagemap::open(pid).expect("it is there");
    let mut pages = Pages::new();
    for run in runs {
        let found = |region: lifeboat_sys::pagemap::Region| {
            let run = region.run;
            let mut bytes = vec![0; usize::try_from(run.bytes()).expect("small")];
            memory.read_runs(&[run], &mut bytes).expect("frozen");
            for (page, bytes) in (run.start.0..run.end().0).zip(bytes.chunks(PAGE_BYTES)) {
                pages.insert(PageIndex(page), bytes.into());
            }
        };
        pagemap
            .scan(*run, &Query::DUMPABLE, found)
            .expect("a page table");
    }
    pages
}
