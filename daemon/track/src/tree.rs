//! A tree of processes.
//!
//! Every round lists the processes anew. One that was not known, and one that has executed another
//! program, gets a new [`SpaceId`], and all that it holds is dirty. A child of fork(2) inherits no
//! tracking; a child of vfork(2) is left alone as long as it uses its parent's memory.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use lifeboat_sys::{
    kcmp,
    namespace::{self, NamespaceError, TreeProcess},
    pidfd::{Pidfd, PidfdError},
};
use rustix::process::Pid;

use crate::{Last, Options, Round, Tracker, error::TrackError, everything};

/// Names an address space that was seen. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// How the writes to an address space are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel notes them (userfaultfd, write protection in asynchronous mode).
    WriteProtect,
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
}

/// A process with memory of its own.
#[derive(Debug)]
struct Member {
    process: Pidfd,
    space: SpaceId,
    tracker: Option<Tracker>,
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
            match member.round(options) {
                Ok(round) => result.spaces.push(SpaceRound {
                    space: member.space,
                    pid: process.pid,
                    mode: member.mode(),
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
        result.took = began.elapsed();
        Ok(result)
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
            self.members.insert(
                key,
                Member {
                    process: opened,
                    space,
                    tracker: None,
                },
            );
        }
        Ok(self.members.get_mut(&key))
    }
}

impl Member {
    fn mode(&self) -> Mode {
        self.tracker
            .as_ref()
            .map_or(Mode::Everything, |_| Mode::WriteProtect)
    }

    fn round(&mut self, options: Options) -> Result<Round, TrackError> {
        if self.tracker.is_none() {
            match Tracker::attach(&self.process, Instant::now() + options.attach_timeout) {
                Ok(tracker) => self.tracker = Some(tracker),
                Err(error) if error.is_gone() => return Err(error),
                Err(error) => {
                    tracing::debug!(pid = number(self.process.pid()), ?error, "not tracked");
                    return everything::round(&self.process);
                }
            }
        }
        match &mut self.tracker {
            Some(tracker) => tracker.round(),
            None => everything::round(&self.process),
        }
    }

    fn last(&self) -> Result<Last, TrackError> {
        match &self.tracker {
            Some(tracker) => tracker.last(),
            None => everything::last(&self.process),
        }
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

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}
