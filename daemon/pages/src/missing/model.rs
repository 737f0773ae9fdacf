//! [`Missing`] against a kernel made of tables of pages, whose reports arrive in other orders than
//! the deeds, as far as they may.
//!
//! The programs are legitimate: no thread touches what another thread is unmapping or moving. But
//! the kernel puts moved memory wherever there is room, and many threads do things at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{Journal, Space};

/// Set to tell the story of the seed that failed.
static TELL: AtomicBool = AtomicBool::new(false);

/// Addresses of the model, in pages.
const ADDRESSES: u64 = 160;
/// Captured pages at the start: `0..CAPTURED`.
const CAPTURED: u64 = 96;
/// Pages of a frame.
const FRAME: u64 = 8;
/// Most processes of one program.
const PROCESSES: usize = 4;

/// A page of the model's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// Nothing there yet; a thread that looks must find this.
    Absent(Content),
    /// Installed.
    Present,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Captured(u64),
    Zero,
}

#[derive(Clone, Debug)]
enum Event {
    Unmapped(PageRun),
    Moved(PageRun, PageIndex),
    Removed(PageRun),
    Fork {
        child: BTreeMap<u64, Page>,
        blocks: Vec<PageRun>,
    },
}

/// What a thread is doing: its reports that were not read.
#[derive(Debug)]
struct Deed {
    events: Vec<Event>,
    /// What belongs to the program when it is done.
    gives: Vec<PageRun>,
}

#[derive(Debug)]
struct Process {
    number: usize,
    pages: BTreeMap<u64, Page>,
    /// Memory that the program knows of.
    blocks: Vec<PageRun>,
    deeds: Vec<Deed>,
    /// Whether the program forks: then the kernel takes care not to use a place again at once. See
    /// "Not decided".
    forks: bool,
    /// Places left since the last rest.
    left: BTreeSet<u64>,
    /// Places that were left by the parent, unread.
    stale: BTreeSet<u64>,
    /// Memory that the program may use once nobody is leaving there any more.
    later: Vec<PageRun>,
    state: Missing,
    id: ProcessId,
}

/// The journal of a program, for takeovers.
struct Takeovers {
    folder: tempfile::TempDir,
    layout: Arc<Layout>,
    journal: Option<Arc<Journal>>,
}

impl Takeovers {
    fn begin(layout: &Arc<Layout>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::create(&folder.path().join("load"), b"").unwrap();
        Self {
            folder,
            layout: Arc::clone(layout),
            journal: Some(Arc::new(journal)),
        }
    }

    /// The server dies; the next one has the journal. Of what was put in last, some was not written
    /// down.
    fn happen(&mut self, processes: &mut [Process], rng: &mut StdRng) {
        for process in &mut *processes {
            process.state.log_to(Log::default());
        }
        self.journal = None;
        let (journal, mut history) = Journal::resume(&self.folder.path().join("load")).unwrap();
        let lost = rng.random_range(0..3);
        for _ in 0..lost {
            history
                .changes
                .pop_if(|(_, last)| matches!(last, Change::Installed(_)));
        }
        let journal = Arc::new(journal);
        let id = processes[0].id;
        let mut past = BTreeMap::from([(id, Missing::new(Arc::clone(&self.layout)))]);
        for (id, change) in &history.changes {
            let child = past.get_mut(id).unwrap().again(change).unwrap();
            if let (Some(child), Change::Forked(forked, _)) = (child, change) {
                let forked = *forked;
                past.insert(ProcessId { forked, ..*id }, child);
            }
        }
        for process in processes {
            process.state = past.remove(&process.id).unwrap();
            process.state.log_to(Log::new(Some(&journal), process.id));
        }
        self.journal = Some(journal);
    }
}

fn tell(what: impl FnOnce() -> String) {
    if TELL.load(Ordering::Relaxed) {
        eprintln!("{}", what());
    }
}

fn run(start: u64, pages: u64) -> PageRun {
    PageRun::new(PageIndex(start), pages)
}

fn numbers(run: PageRun) -> impl Iterator<Item = u64> {
    run.start.0..run.end().0
}

fn layout(rng: &mut StdRng) -> Arc<Layout> {
    let mut runs = Vec::new();
    for frame in 0..CAPTURED / FRAME {
        let (first, holes) = (frame * FRAME, rng.random_range(0..3));
        runs.push(Run {
            start: PageIndex(first),
            pages: u32::try_from(FRAME - holes).unwrap(),
            frame: u32::try_from(frame).unwrap(),
            frame_page: 0,
        });
    }
    let lazy = vec![run(0, CAPTURED)];
    Arc::new(Layout::new(Space {
        pid: 1,
        runs,
        lazy,
        ..Space::default()
    }))
}

impl Process {
    fn first(layout: &Arc<Layout>, forks: bool, journal: Option<&Arc<Journal>>) -> Self {
        let id = ProcessId { pid: 1, forked: 0 };
        let mut state = Missing::new(Arc::clone(layout));
        state.log_to(Log::new(journal, id));
        let content = |page| match layout.find(PageIndex(page)) {
            Some(_) => Content::Captured(page),
            None => Content::Zero,
        };
        Self {
            number: 0,
            pages: (0..CAPTURED)
                .map(|page| (page, Page::Absent(content(page))))
                .collect(),
            blocks: (0..CAPTURED / 16)
                .map(|block| run(block * 16, 16))
                .collect(),
            deeds: Vec::new(),
            forks,
            left: BTreeSet::new(),
            stale: BTreeSet::new(),
            later: Vec::new(),
            state,
            id,
        }
    }

    /// Takes a random part of a block away from the program.
    fn pick(&mut self, rng: &mut StdRng) -> Option<PageRun> {
        let at = (!self.blocks.is_empty()).then(|| rng.random_range(0..self.blocks.len()))?;
        let block = self.blocks.swap_remove(at);
        let from = rng.random_range(0..block.pages);
        let part = match rng.random_range(0..3) {
            0 => block,
            _ => run(
                block.start.0 + from,
                rng.random_range(1..=block.pages - from),
            ),
        };
        self.blocks.extend(free(block, &[part]));
        Some(part)
    }

    /// A place where the kernel may put `pages` pages.
    fn room(&self, rng: &mut StdRng, pages: u64) -> Option<PageIndex> {
        let fits = |start: &u64| {
            let avoided = |page| self.left.contains(&page) || self.stale.contains(&page);
            (*start..start + pages).all(|page| !self.pages.contains_key(&page) && !avoided(page))
        };
        let places: Vec<u64> = (0..ADDRESSES - pages).filter(fits).collect();
        (!places.is_empty()).then(|| PageIndex(places[rng.random_range(0..places.len())]))
    }

    /// Whether somebody has left this place and it was not read; see "Not decided".
    fn leaving(&self, page: u64) -> bool {
        let leaves = |event: &Event| match event {
            Event::Unmapped(range) | Event::Moved(range, _) => range.contains(PageIndex(page)),
            _ => false,
        };
        self.deeds.iter().any(|deed| deed.events.iter().any(leaves))
    }

    fn forking(&self) -> bool {
        let fork = |event: &Event| matches!(event, Event::Fork { .. });
        self.deeds.iter().any(|deed| deed.events.iter().any(fork))
    }

    fn act(&mut self, rng: &mut StdRng, may_fork: bool) {
        match rng.random_range(0..12) {
            0..3 => self.unmap(rng),
            3..7 => {
                let keep_source = !self.forks && rng.random_bool(0.2);
                self.remap(rng, keep_source);
            }
            7..9 if !self.forking() => self.remove(rng),
            9 if may_fork => self.fork(),
            9..11 if !self.forking() => self.grow(rng),
            _ => {}
        }
    }

    fn take(&mut self, range: PageRun) -> Vec<Option<Page>> {
        if self.forks {
            self.left.extend(numbers(range));
        }
        numbers(range)
            .map(|page| self.pages.remove(&page))
            .collect()
    }

    fn unmap(&mut self, rng: &mut StdRng) {
        let Some(part) = self.pick(rng) else { return };
        tell(|| format!("{}: unmap {part:?}", self.number));
        self.take(part);
        self.deeds.push(Deed {
            events: vec![Event::Unmapped(part)],
            gives: Vec::new(),
        });
    }

    fn remap(&mut self, rng: &mut StdRng, keep_source: bool) {
        let Some(part) = self.pick(rng) else { return };
        let Some(to) = self.room(rng, part.pages) else {
            return self.blocks.push(part);
        };
        tell(|| {
            format!(
                "{}: move {part:?} to {to:?}, keep {keep_source}",
                self.number
            )
        });
        let pages = self.take(part);
        for (at, page) in pages.into_iter().enumerate() {
            let page = page.expect("a block is mapped");
            self.pages.insert(to.0 + at as u64, page);
        }
        let mut events = vec![Event::Moved(part, to)];
        let target = PageRun::new(to, part.pages);
        let mut gives = vec![target];
        if keep_source {
            self.pages
                .extend(numbers(part).map(|page| (page, Page::Absent(Content::Zero))));
            gives.push(part);
        } else {
            events.push(Event::Unmapped(part));
        }
        self.deeds.push(Deed { events, gives });
    }

    fn remove(&mut self, rng: &mut StdRng) {
        let Some(part) = self.pick(rng) else { return };
        tell(|| format!("{}: remove {part:?}", self.number));
        let events = vec![Event::Removed(part)];
        self.deeds.push(Deed {
            events,
            gives: vec![part],
        });
    }

    /// A mapping grows in place: no report. See "Not decided" for why it is touched.
    fn grow(&mut self, rng: &mut StdRng) {
        let Some(part) = self.pick(rng) else { return };
        let grown = part.end().0;
        let free = |page: u64| {
            let known = self.state.mapping.find(PageIndex(page)).is_some();
            page < ADDRESSES && !self.pages.contains_key(&page) && !self.leaving(page) && !known
        };
        let whole = if free(grown) {
            self.pages.insert(grown, Page::Absent(Content::Zero));
            self.state.fault(PageIndex(grown));
            run(part.start.0, part.pages + 1)
        } else {
            part
        };
        tell(|| format!("{}: grow to {whole:?}", self.number));
        self.blocks.push(whole);
    }

    fn fork(&mut self) {
        if self.forking() {
            return;
        }
        tell(|| format!("{}: fork", self.number));
        let fork = Event::Fork {
            child: self.pages.clone(),
            blocks: self.blocks.clone(),
        };
        self.deeds.push(Deed {
            events: vec![fork],
            gives: Vec::new(),
        });
    }

    /// Reads the next report of some thread.
    fn read(&mut self, rng: &mut StdRng) -> Option<Self> {
        let at = (!self.deeds.is_empty()).then(|| rng.random_range(0..self.deeds.len()))?;
        let event = self.deeds[at].events.remove(0);
        tell(|| match &event {
            Event::Fork { .. } => format!("{}: read: fork", self.number),
            event => format!("{}: read: {event:?}", self.number),
        });
        let child = self.apply(event);
        if self.deeds[at].events.is_empty() {
            self.later.extend(self.deeds.swap_remove(at).gives);
        }
        let later = std::mem::take(&mut self.later);
        let left = |block: &PageRun| !numbers(*block).any(|page| self.leaving(page));
        let (blocks, later): (Vec<_>, _) = later.into_iter().partition(left);
        self.blocks.extend(blocks);
        self.later = later;
        if self.deeds.is_empty() && rng.random_bool(0.7) {
            tell(|| format!("{}: rest", self.number));
            self.left.clear();
            self.state.at_rest();
        }
        child
    }

    fn apply(&mut self, event: Event) -> Option<Self> {
        match event {
            Event::Unmapped(range) => self.state.unmapped(range),
            Event::Moved(from, to) => self.state.moved(from, to),
            Event::Removed(range) => {
                self.state.removed(range);
                for page in numbers(range) {
                    self.pages.insert(page, Page::Absent(Content::Zero));
                }
            }
            Event::Fork { child, blocks } => {
                let forked = crate::process::next_child();
                let id = ProcessId { pid: 1, forked };
                let state = self.state.fork(id, |page| child.contains_key(&page.0));
                let believed = |page: &u64| state.mapping.find(PageIndex(*page)).is_some();
                let stale = |page: &u64| believed(page) && !child.contains_key(page);
                return Some(Self {
                    number: 0,
                    forks: true,
                    left: BTreeSet::new(),
                    stale: (0..ADDRESSES).filter(stale).collect(),
                    pages: child,
                    blocks,
                    deeds: Vec::new(),
                    later: Vec::new(),
                    state,
                    id,
                });
            }
        }
        None
    }

    /// An installer puts in a frame, if the kernel lets it.
    fn install(&mut self, frame: u32) {
        if !self.deeds.is_empty() {
            return;
        }
        self.state.at_rest();
        for hole in self.state.holes(frame) {
            tell(|| format!("{}: install {hole:?}", self.number));
            for at in 0..hole.now.pages {
                let (now, captured) = (hole.now.start.0 + at, hole.captured.0 + at);
                match self.pages.get(&now) {
                    None => {
                        let absent = self.state.absent(run(now, 1));
                        assert_eq!(absent, Absent::Settled, "page {now} was lost");
                        continue;
                    }
                    Some(Page::Present) => {}
                    Some(Page::Absent(content)) => {
                        if self.knows(now) {
                            assert_eq!(*content, Content::Captured(captured), "page {now}");
                        }
                        self.pages.insert(now, Page::Present);
                    }
                }
                self.state.installed(run(captured, 1));
            }
        }
    }

    fn knows(&self, page: u64) -> bool {
        self.blocks
            .iter()
            .any(|block| block.contains(PageIndex(page)))
    }

    /// A thread looks at a page that it may look at.
    fn touch(&mut self, page: u64) {
        let Some(&Page::Absent(content)) = self.pages.get(&page) else {
            return;
        };
        if !self.knows(page) {
            return;
        }
        for _ in 0..8 {
            let look = self.state.fault(PageIndex(page));
            if !self.deeds.is_empty() {
                return;
            }
            match look {
                Look::Zero => {
                    assert_eq!(content, Content::Zero, "page {page} became zeros");
                    self.pages.insert(page, Page::Present);
                }
                Look::Frame(frame) => self.install(frame),
            }
            if self.pages.get(&page) == Some(&Page::Present) {
                return;
            }
        }
        panic!("page {page} is never answered");
    }

    fn finish(&mut self, rng: &mut StdRng) -> Vec<Self> {
        let mut children = Vec::new();
        while !self.deeds.is_empty() {
            children.extend(self.read(rng));
        }
        for frame in 0..u32::try_from(CAPTURED / FRAME).unwrap() {
            for _ in 0..8 {
                self.install(frame);
            }
            assert!(!self.state.wants(frame));
        }
        assert_eq!(self.state.remaining(), 0);
        for page in 0..ADDRESSES {
            self.touch(page);
            let captured = matches!(
                self.pages.get(&page),
                Some(Page::Absent(Content::Captured(_)))
            );
            assert!(
                !captured || !self.knows(page),
                "page {page} was never installed"
            );
        }
        children
    }
}

fn program(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let layout = layout(&mut rng);
    let forks = rng.random();
    let mut takeovers = rng.random_bool(0.3).then(|| Takeovers::begin(&layout));
    let journal = takeovers.as_ref().and_then(|all| all.journal.as_ref());
    let mut processes = vec![Process::first(&layout, forks, journal)];
    for _ in 0..rng.random_range(5..80) {
        let may_fork = forks && processes.len() < PROCESSES;
        if let Some(takeovers) = &mut takeovers
            && rng.random_bool(0.05)
        {
            tell(|| "takeover".to_owned());
            takeovers.happen(&mut processes, &mut rng);
        }
        let at = rng.random_range(0..processes.len());
        let process = &mut processes[at];
        match rng.random_range(0..10) {
            0..4 => process.act(&mut rng, may_fork),
            4..7 => {
                let child = process.read(&mut rng);
                let number = processes.len();
                processes.extend(child.map(|child| Process { number, ..child }));
            }
            7..9 => process.touch(rng.random_range(0..ADDRESSES)),
            _ => process.install(rng.random_range(0..u32::try_from(CAPTURED / FRAME).unwrap())),
        }
    }
    while let Some(mut process) = processes.pop() {
        processes.extend(process.finish(&mut rng));
    }
}

/// Programs that are tried; more with the environment's `LIFEBOAT_TEST_SEEDS`.
const SEEDS: u64 = 1500;

#[test]
fn every_page_gets_its_own_content_whatever_the_order_of_the_reports() {
    let seeds = std::env::var("LIFEBOAT_TEST_SEEDS")
        .ok()
        .map_or(SEEDS, |n| n.parse().unwrap());
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| program(seed)) {
            eprintln!("seed {seed}:");
            TELL.store(true, Ordering::Relaxed);
            drop(std::panic::catch_unwind(|| program(seed)));
            std::panic::resume_unwind(panic);
        }
    }
}
