//! A tree of processes.
//!
//! Every round lists the processes anew. One that was not known, and one that has executed another
//! program, gets a new [`SpaceId`], and all that it holds is dirty. A child of fork(2) inherits no
//! tracking; a child of vfork(2) is left alone as long as it uses its parent's memory.

use std::{
    collections::BTreeMap,
    fmt, fs,
    time::{Duration, Instant},
};

use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_sys::{
    kcmp,
    namespace::{self, NamespaceError, TreeProcess},
    pidfd::{Pidfd, PidfdError},
};
use rustix::process::Pid;

use crate::{ContentHash, Cost, Last, Options, Round, Runs, error::TrackError, member::Member};

/// Time in a round after which no further process is begun to be tracked. It is in a later round.
pub const ATTACHING_MAX: Duration = Duration::from_secs(2);

/// Names an address space that was seen. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// How the writes to an address space are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel notes them (userfaultfd, write protection in asynchronous mode).
    WriteProtect,
    /// Contents are compared with what was [captured](TreeTracker::captured): all memory is read in
    /// every round.
    Hash,
    /// They are not: all that it holds counts as dirty, and is left for the end.
    Everything,
}

/// What a round tells of one address space.
#[derive(Debug)]
pub struct SpaceRound {
    /// Which.
    pub space: SpaceId,
    /// Whose.
    pub pid: Pid,
    /// How it is tracked.
    pub mode: Mode,
    /// Why not better.
    pub why: Option<String>,
    /// What happened.
    pub round: Round,
}

/// What a round tells of a tree.
#[derive(Debug, Default)]
pub struct TreeRound {
    /// The address spaces that there are, parents before children.
    pub spaces: Vec<SpaceRound>,
    /// Those that are gone: all that was captured of them is void.
    pub ended: Vec<SpaceId>,
    /// What the time since the round before cost the workload. In the first round, nothing.
    pub cost: Cost,
    /// Time it took.
    pub took: Duration,
}

/// What the memory of one process consists of.
#[derive(Debug)]
pub struct SpaceLast {
    /// Which.
    pub space: SpaceId,
    /// Whose.
    pub pid: Pid,
    /// What is in it.
    pub last: Last,
}

/// Why a tree could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The processes could not be listed.
    #[error("list the processes of the tree")]
    List {
        /// Why.
        source: NamespaceError,
    },
    /// One of them could not be looked at.
    #[error("look at address space {space}")]
    Space {
        /// Which.
        space: SpaceId,
        /// Why.
        source: TrackError,
    },
    /// A process could not be held on to.
    #[error("keep a descriptor of a process of the tree")]
    Process {
        /// Why.
        source: PidfdError,
    },
}

impl TreeError {
    /// The whole tree has ended.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::List { source } if source.is_gone())
    }
}

/// Follows the writes of all processes of a tree.
#[derive(Debug)]
pub struct TreeTracker {
    root: Pidfd,
    options: Options,
    members: BTreeMap<i32, Member>,
    next: u64,
    /// When the last round was, and what each process had used by then.
    before: Option<(Instant, BTreeMap<SpaceId, Duration>)>,
}

impl TreeTracker {
    /// Begins to track `root` and all below it, with the first round.
    #[must_use]
    pub const fn new(root: Pidfd, options: Options) -> Self {
        Self {
            root,
            options,
            members: BTreeMap::new(),
            next: 1,
            before: None,
        }
    }

    /// Looks what was written since the last round.
    ///
    /// # Errors
    /// [`TreeError`]; what processes do (end, execute) is no error, unless the root ends.
    pub fn round(&mut self) -> Result<TreeRound, TreeError> {
        let began = Instant::now();
        let mut result = TreeRound::default();
        let tree = self.list(&mut result.ended)?;
        let options = self.options;
        for process in tree {
            let Some(member) = self.member(process)? else {
                continue;
            };
            match member.round(options, began.elapsed() < ATTACHING_MAX) {
                Ok(round) => result.spaces.push(SpaceRound {
                    space: member.space,
                    pid: process.pid,
                    mode: member.mode(),
                    why: member.why().map(str::to_owned),
                    round,
                }),
                // One that has executed another program is found in the next round.
                Err(error) if error.is_gone() => self.forget(process.pid, &mut result.ended),
                Err(source) => {
                    let space = member.space;
                    return Err(TreeError::Space { space, source });
                }
            }
        }
        result.cost = self.cost_until(began, &result.spaces);
        result.took = began.elapsed();
        Ok(result)
    }

    /// Leaves nothing out of the next round, however often it was written lately.
    pub fn cool(&mut self) {
        self.members.values_mut().for_each(Member::cool);
    }

    /// Looks what the memory of the tree consists of. Nothing in it may run; it may be traced by
    /// somebody else. Processes that no round has seen are among them, and those that the last
    /// round has seen and that are missing have ended.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn last(&mut self) -> Result<Vec<SpaceLast>, TreeError> {
        let mut ended = Vec::new();
        let mut spaces = Vec::new();
        for process in self.list(&mut ended)? {
            let mut tries = 0;
            while let Some(member) = self.member(process)? {
                tries += 1;
                match member.last() {
                    Ok(last) => {
                        let space = member.space;
                        spaces.push(SpaceLast {
                            space,
                            pid: process.pid,
                            last,
                        });
                        break;
                    }
                    // It has executed another program since the last round.
                    Err(error) if error.is_gone() && tries == 1 => {
                        self.forget(process.pid, &mut ended);
                    }
                    Err(source) => {
                        let space = member.space;
                        return Err(TreeError::Space { space, source });
                    }
                }
            }
        }
        Ok(spaces)
    }

    /// The content of a run of pages was captured: these bytes. Needed for address spaces in mode
    /// [`Mode::Hash`], where it is what pages are compared with; others ignore it.
    pub fn captured(&mut self, space: SpaceId, run: PageRun, bytes: &[u8]) {
        let (contents, _) = bytes.as_chunks::<PAGE_BYTES>();
        let pages = (run.start.0..run.end().0).map(PageIndex);
        for (page, content) in pages.zip(contents) {
            self.captured_as(space, page, ContentHash::of(content));
        }
    }

    /// As [`TreeTracker::captured`], for one page whose hash is known already.
    pub fn captured_as(&mut self, space: SpaceId, page: PageIndex, hash: ContentHash) {
        if let Some(member) = self.by_space(space) {
            member.captured(page, hash);
        }
    }

    /// Pages that were reported could not be captured, or what was captured is lost: they are dirty
    /// again.
    pub fn again(&mut self, space: SpaceId, runs: &Runs) {
        if let Some(member) = self.by_space(space) {
            member.again(runs);
        }
    }

    fn by_space(&mut self, space: SpaceId) -> Option<&mut Member> {
        self.members
            .values_mut()
            .find(|member| member.space == space)
    }

    /// What was spent since the round before, and what for. Processes that have come since count
    /// from their beginning on, those that have ended not at all.
    fn cost_until(&mut self, now: Instant, spaces: &[SpaceRound]) -> Cost {
        let used: BTreeMap<SpaceId, Duration> = spaces
            .iter()
            .map(|one| (one.space, processor_time(one.pid)))
            .collect();
        let before = self.before.replace((now, used.clone()));
        let Some((then, before)) = before else {
            return Cost::default();
        };
        let spent = used.iter().map(|(space, used)| {
            used.saturating_sub(before.get(space).copied().unwrap_or_default())
        });
        let faulting = spaces.iter().filter(|one| one.mode == Mode::WriteProtect);
        Cost {
            interval: now.saturating_duration_since(then),
            pages: faulting.map(|one| one.round.dirty.pages()).sum(),
            used: spent.sum(),
        }
    }

    /// Lists the processes; forgets those that are gone.
    fn list(&mut self, ended: &mut Vec<SpaceId>) -> Result<Vec<TreeProcess>, TreeError> {
        let tree =
            namespace::process_tree(&self.root).map_err(|source| TreeError::List { source })?;
        let listed: std::collections::BTreeSet<i32> =
            tree.iter().map(|process| number(process.pid)).collect();
        self.members.retain(|pid, member| {
            let stays = listed.contains(pid) && member.process.is_alive();
            if !stays {
                ended.push(member.space);
            }
            stays
        });
        Ok(tree)
    }

    fn forget(&mut self, pid: Pid, ended: &mut Vec<SpaceId>) {
        ended.extend(self.members.remove(&number(pid)).map(|member| member.space));
    }

    /// What is known of a process. `None`: it has ended, or has no memory of its own.
    fn member(&mut self, process: TreeProcess) -> Result<Option<&mut Member>, TreeError> {
        let key = number(process.pid);
        if !self.members.contains_key(&key) {
            let opened = match Pidfd::open(process.pid) {
                Ok(opened) => opened,
                Err(error) if error.is_gone() => return Ok(None),
                Err(source) => return Err(TreeError::Process { source }),
            };
            if !opened.is_alive() || borrows_memory(process) {
                return Ok(None);
            }
            let space = SpaceId(self.next);
            self.next += 1;
            self.members.insert(key, Member::new(opened, space));
        }
        Ok(self.members.get_mut(&key))
    }
}

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a process uses its parent's memory. Where the kernel does not tell, it does not.
fn borrows_memory(process: TreeProcess) -> bool {
    process
        .parent
        .is_some_and(|parent| kcmp::share_memory(process.pid, parent).unwrap_or(false))
}

/// Processor time that a process has used; nothing if it has ended.
fn processor_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", number(pid))).unwrap_or_default();
    // After the name, which may hold anything: state is field 3; utime 14, stime 15.
    let fields = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / a_second))
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}
