//! One process that is being loaded: its userfaultfd, and what it misses.
//!
//! # Why no stale byte gets into a page
//!
//! The target changes its address space while installers put bytes into it. The kernel helps with
//! one counter, `mmap_changing`: it is raised before a mapping is moved, unmapped, emptied or
//! copied for a child, and lowered by the thread that did it, after we have read its event. While
//! it is raised, `UFFDIO_COPY` and `UFFDIO_ZEROPAGE` answer EAGAIN (fs/userfaultfd.c; the check is
//! made under the lock of the mapping, so that it covers a copy that began before).
//!
//! That is not enough: an installer could decide that a page is missing, then the target throws the
//! page away, we read that event, the counter falls, and the installer's copy succeeds with bytes
//! that are stale. So every decision and the system call that carries it out happen while
//! [`Process::gate`] is held for reading, and events are read and applied to the state while it is
//! held for writing. Then, when a copy succeeds:
//!
//! - the counter was 0 at that moment, so that every change until then had its event read;
//! - what was read was applied before the decision (gate), so that the decision knew of it;
//! - no event was read between the decision and the copy (gate), so that what is changed later
//!   happens after the copy: its thread cannot go on before its event is read. For a removal,
//!   whose event comes before the deed, the same holds: the deed waits for the event.
//!
//! A fault may be read before the event that explains it (the kernel hands out faults first). Its
//! answer is then decided from an old state, but cannot be carried out (EAGAIN); it is
//! [deferred](State::deferred) and decided again after the events.
//!
//! ENOENT means that there is no registered mapping, and can be told by a kernel whose change is
//! under way. So it is believed only if the counter is 0 *after* it, with the gate still held: a
//! change at the time of the ENOENT would still be unread, and the counter raised. Even then the
//! page is not dropped: see [`Missing::absent`].
//!
//! The order of events that several threads cause at once is the subject of [`Missing`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Condvar, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::uffd::{Install, Obstacle, Uffd};

use crate::{
    missing::Missing,
    sync::{lock, write},
};

/// Longest time that the kernel may say "try again" before the load fails. It says so while threads
/// of the target change its mappings, and for ever on kernels before 6.18 after a `mremap` that
/// failed half-way.
pub(crate) const RESTLESS_MAX: Duration = Duration::from_secs(60);

/// An address of which no process makes a mapping that is registered. Used to ask the kernel how it
/// is with the process, without touching anything: the lowest that unprivileged processes may map.
const PROBE: PageIndex = PageIndex(16);

/// Names a process in messages, and in the tables of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ProcessId {
    /// PID of the process that was restored.
    pub(crate) pid: u32,
    /// 0, or a number of its own for a process that was forked while loading.
    pub(crate) forked: u32,
}

/// Stands for all processes where one is to be named.
pub(crate) const NOBODY: ProcessId = ProcessId { pid: 0, forked: 0 };

/// The number of the next process that is forked while loading.
static CHILDREN: AtomicU32 = AtomicU32::new(1);

/// A number for the next process that is forked while loading.
pub(crate) fn next_child() -> u32 {
    CHILDREN.fetch_add(1, Ordering::Relaxed)
}

/// A number was given by a predecessor.
pub(crate) fn is_taken(child: u32) {
    CHILDREN.fetch_max(child.saturating_add(1), Ordering::Relaxed);
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every change of its mappings was read.
    AtRest,
    /// Its mappings are being changed.
    Restless,
    /// It has exited, or runs another program.
    Gone,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) uffd: Uffd,
    /// Held for reading from a decision until it is carried out; for writing while events are read.
    pub(crate) gate: RwLock<()>,
    pub(crate) state: Mutex<State>,
    /// Events were read, or a thread let go of the gate.
    pub(crate) changed: Condvar,
    /// CRIU registers mappings one by one after it has sent the descriptor. Before this is set,
    /// no mapping may only mean that it is not registered yet.
    registered: AtomicBool,
    gone: AtomicBool,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) missing: Missing,
    /// Faults that wait for a frame, by page, with the time they were read.
    pub(crate) waiting: BTreeMap<PageIndex, Instant>,
    /// Faults that could not be answered yet.
    pub(crate) deferred: BTreeSet<PageIndex>,
    /// Since when the kernel says "try again", while something is to be installed.
    restless_since: Option<Instant>,
    /// Everything is in.
    pub(crate) complete: bool,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forked {
            0 => write!(f, "process {}", self.pid),
            child => write!(f, "child {child} of process {}", self.pid),
        }
    }
}

impl Process {
    pub(crate) fn new(id: ProcessId, uffd: Uffd, missing: Missing, registered: bool) -> Self {
        Self {
            id,
            uffd,
            gate: RwLock::new(()),
            state: Mutex::new(State {
                missing,
                waiting: BTreeMap::new(),
                deferred: BTreeSet::new(),
                restless_since: None,
                complete: false,
            }),
            changed: Condvar::new(),
            registered: AtomicBool::new(registered),
            gone: AtomicBool::new(false),
        }
    }

    /// All mappings are registered from now on.
    pub(crate) fn set_registered(&self) {
        self.registered.store(true, Ordering::Release);
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    /// There is nobody any more who could miss pages.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Pages that are still to be installed.
    pub(crate) fn remaining(&self) -> u64 {
        if self.is_gone() {
            0
        } else {
            lock(&self.state).missing.remaining()
        }
    }

    /// Whether everything is in, and the fault thread has not noticed yet.
    pub(crate) fn is_finishing(&self) -> bool {
        let state = lock(&self.state);
        !self.is_gone() && !state.complete && state.missing.remaining() == 0
    }

    /// Whether a frame has pages that are missing here.
    pub(crate) fn wants(&self, frame: u32) -> bool {
        !self.is_gone() && lock(&self.state).missing.wants(frame)
    }

    /// Asks the kernel. The answer holds as long as the gate is held for writing.
    pub(crate) fn health(&self) -> Health {
        match self.uffd.takes_pages(PROBE) {
            Ok(Some(_)) => Health::AtRest,
            Ok(None) => Health::Restless,
            Err(error) if error.is_gone() => {
                self.set_gone();
                Health::Gone
            }
            Err(_) => Health::Restless,
        }
    }

    /// Whether nothing can be missing any more.
    ///
    /// Its ranges stay registered until the descriptor is closed. To unregister what is known would
    /// cut mappings that have grown meanwhile in two, and `mremap` of the whole would fail, which
    /// the program has no reason to expect.
    pub(crate) fn try_complete(&self) -> bool {
        let _gate = write(&self.gate);
        let mut state = lock(&self.state);
        if self.is_gone() || state.complete {
            return true;
        }
        if state.missing.remaining() > 0 || !self.is_registered() {
            return false;
        }
        match self.health() {
            Health::Gone => return true,
            Health::Restless => return false,
            Health::AtRest => state.missing.at_rest(),
        }
        state.complete = state.missing.remaining() == 0;
        state.complete
    }

    /// Wakes the threads that wait in `range`; they look again.
    pub(crate) fn wake(&self, range: PageRun) {
        if let Err(error) = self.uffd.wake(range) {
            tracing::debug!(process = %self.id, %range, %error, "nobody to wake");
        }
    }

    /// Gives a page of zeros to whoever waits for it. Call with the gate held. `false`: the answer
    /// must be decided again later.
    pub(crate) fn zero(&self, page: PageIndex) -> bool {
        let range = PageRun::new(page, 1);
        match self.uffd.zero(range, Install::default()) {
            Ok(progress) => match progress.obstacle {
                None => true,
                Some(Obstacle::Exists | Obstacle::NotMapped) => {
                    self.wake(range);
                    true
                }
                Some(Obstacle::ProcessGone) => {
                    self.set_gone();
                    true
                }
                Some(Obstacle::Again | Obstacle::NoSpace) => false,
            },
            Err(error) => {
                tracing::warn!(process = %self.id, %page, %error, "a fault is not answered");
                false
            }
        }
    }
}

impl State {
    /// Notes that the kernel said "try again", or that it did not. How long it has, if too long.
    pub(crate) fn restless(&mut self, restless: bool, now: Instant) -> Option<Duration> {
        if !restless {
            self.restless_since = None;
            return None;
        }
        let since = *self.restless_since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        (waited > RESTLESS_MAX).then_some(waited)
    }

    /// Faults in `range` are answered, or must be asked again by their threads.
    pub(crate) fn answered(&mut self, range: PageRun) -> Vec<Instant> {
        let pages: Vec<PageIndex> = self
            .waiting
            .range(range.start..range.end())
            .map(|(page, _)| *page)
            .collect();
        self.deferred.retain(|page| !range.contains(*page));
        pages
            .iter()
            .filter_map(|page| self.waiting.remove(page))
            .collect()
    }
}
