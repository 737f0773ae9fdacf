//! The fault thread: reads what the kernel tells of all processes of a load, and answers what needs
//! no frame. It never waits for the network, and for installers no longer than one copy.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::uffd::{Event, EventBuffer, Uffd, UffdError};
use rustix::event::{Timespec, epoll};

use crate::{
    Journal, LoadError,
    load::{DOORBELL, Load, Watch},
    missing::Look,
    process::{Health, Process, ProcessId, State},
    sync::{lock, write},
};

/// Most descriptors looked at per round.
const READY_MAX: usize = 64;

/// Most reads of one descriptor before others have their turn; each brings up to
/// [`lifeboat_sys::uffd::EVENTS_MAX`] events.
const READS_MAX: usize = 16;

/// How soon what could not be answered is decided again, when the kernel tells nothing new.
const RETRY: Duration = Duration::from_millis(1);

/// How often it is looked for processes that have exited.
const REAP: Duration = Duration::from_secs(1);

/// Runs until the load is finished, or has failed.
pub(crate) fn run(load: &Arc<Load>) {
    let _watch = Watch {
        load: Arc::clone(load),
        who: "fault thread",
    };
    let mut faults = Faults {
        load,
        buffer: EventBuffer::new(),
        reaped: Instant::now(),
    };
    while !load.finished.load(Relaxed) {
        match faults.round() {
            Ok(()) => {}
            Err(error) => load.fail(error),
        }
        if matches!(&*load.outcome.borrow(), Some(Err(_))) {
            // Who faults from now on blocks until it is killed: the descriptors stay open.
            return;
        }
    }
}

struct Faults<'load> {
    load: &'load Arc<Load>,
    buffer: EventBuffer,
    reaped: Instant,
}

impl Faults<'_> {
    /// Waits for news, and deals with them.
    fn round(&mut self) -> Result<(), LoadError> {
        let timeout = if self.is_pending() { RETRY } else { REAP };
        let mut ready = Vec::with_capacity(READY_MAX);
        let timeout = Timespec::try_from(timeout).expect("a second is not too long");
        let waited = epoll::wait(
            &self.load.epoll,
            rustix::buffer::spare_capacity(&mut ready),
            Some(&timeout),
        );
        match waited {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(kernel(&"all processes", "waiting for faults", error)),
        }
        for event in ready {
            match event.data.u64() {
                DOORBELL => self.load.heard(),
                token => {
                    let process = lock(&self.load.processes).get(&token).cloned();
                    if let Some(process) = process {
                        self.read(&process)?;
                    }
                }
            }
        }
        self.retry()?;
        self.reap();
        self.complete();
        Ok(())
    }

    /// Whether something is to be looked at soon without anybody telling.
    fn is_pending(&self) -> bool {
        if self.load.is_over() {
            return false;
        }
        self.load.all().iter().any(|process| {
            let state = lock(&process.state);
            let finishing = state.missing.remaining() == 0 && process.is_registered();
            !process.is_gone()
                && (!state.deferred.is_empty()
                    || state.missing.is_unsettled()
                    || (finishing && !state.complete))
        })
    }

    /// Reads all that the kernel tells of a process, applies it, and answers faults.
    fn read(&mut self, process: &Arc<Process>) -> Result<(), LoadError> {
        let mut demand = Vec::new();
        let mut children = Vec::new();
        let window = Journal::open_window(self.load.options.journal.as_ref());
        let window = window.map_err(|error| kernel(&process.id, "marking the journal", error))?;
        {
            let _gate = write(&process.gate);
            for _ in 0..READS_MAX {
                let events: Vec<Event> = match process.uffd.read_events(&mut self.buffer) {
                    Ok(events) => events.collect(),
                    Err(error) => return unreadable(process, error),
                };
                if events.is_empty() {
                    break;
                }
                let mut state = lock(&process.state);
                for event in events {
                    apply(process, &mut state, event, &mut children);
                }
            }
            let mut state = lock(&process.state);
            if state.missing.is_unsettled() && process.health() == Health::AtRest {
                state.missing.at_rest();
            }
            self.answer(process, &mut state, &mut demand)?;
        }
        process.changed.notify_all();
        for child in children {
            self.load.figures.forked.fetch_add(1, Relaxed);
            let id = child.id;
            self.load
                .serve(&Arc::new(child))
                .map_err(|error| kernel(&id, "guarding the descriptor", error))?;
        }
        let closed = window.close();
        closed.map_err(|error| kernel(&process.id, "marking the journal", error))?;
        self.load.demand(&demand);
        Ok(())
    }

    /// Answers all deferred faults that can be answered; the gate is held for writing.
    fn answer(
        &self,
        process: &Process,
        state: &mut State,
        demand: &mut Vec<u32>,
    ) -> Result<(), LoadError> {
        let now = Instant::now();
        for page in std::mem::take(&mut state.deferred) {
            match state.missing.fault(page) {
                Look::Frame(frame) => {
                    if let std::collections::btree_map::Entry::Vacant(entry) =
                        state.waiting.entry(page)
                    {
                        entry.insert(now);
                        self.load.figures.demand_faults.fetch_add(1, Relaxed);
                    }
                    demand.push(frame);
                }
                Look::Zero if process.zero(page) => {
                    state.waiting.remove(&page);
                    self.load.figures.zero_faults.fetch_add(1, Relaxed);
                }
                Look::Zero => drop(state.deferred.insert(page)),
            }
        }
        match state.restless(!state.deferred.is_empty(), now) {
            Some(waited) => Err(LoadError::Restless {
                process: process.id.to_string(),
                waited,
            }),
            None => Ok(()),
        }
    }

    /// Looks again at what could not be answered.
    fn retry(&mut self) -> Result<(), LoadError> {
        for process in self.load.all() {
            let again = {
                let state = lock(&process.state);
                !state.deferred.is_empty() || state.missing.is_unsettled()
            };
            if again && !process.is_gone() {
                self.read(&process)?;
            }
        }
        Ok(())
    }

    /// Forgets processes that have exited.
    fn reap(&mut self) {
        let due = self.reaped.elapsed() >= REAP;
        if due {
            self.reaped = Instant::now();
        }
        let processes: Vec<(u64, Arc<Process>)> = lock(&self.load.processes)
            .iter()
            .map(|(token, p)| (*token, Arc::clone(p)))
            .collect();
        for (token, process) in processes {
            if process.is_gone() || (due && process.health() == Health::Gone) {
                self.load.forget(token);
            }
        }
    }

    /// Ends the load when nothing can be missing any more.
    fn complete(&self) {
        if !self.load.all_added.load(Relaxed) || self.load.is_over() {
            return;
        }
        let (mut restored, mut all) = (true, true);
        for process in self.load.all() {
            let complete = process.remaining() == 0 && process.try_complete();
            all &= complete;
            restored &= complete || process.id.forked > 0;
        }
        if restored && !self.load.restored_complete.swap(true, Relaxed) {
            self.load.fetcher.notify_one();
        }
        if all {
            self.load.succeed();
        }
    }
}

fn kernel(
    process: &impl ToString,
    step: &'static str,
    error: impl Into<std::io::Error>,
) -> LoadError {
    LoadError::Kernel {
        process: process.to_string(),
        step,
        source: Arc::new(error.into()),
    }
}

fn unreadable(process: &Process, error: UffdError) -> Result<(), LoadError> {
    if process.health() == Health::Gone {
        return Ok(());
    }
    Err(kernel(
        &process.id,
        "reading events",
        std::io::Error::other(error),
    ))
}

/// Applies one event to what is missing. Faults are only noted: they are decided after all events.
fn apply(process: &Process, state: &mut State, event: Event, children: &mut Vec<Process>) {
    let left = |range: PageRun, state: &mut State| {
        drop(state.answered(range));
        process.wake(range);
    };
    match event {
        Event::PageFault { addr, .. } => {
            state.deferred.insert(addr.page());
        }
        Event::Unmap { range } => {
            state.missing.unmapped(range);
            left(range, state);
        }
        Event::Remove { range } => {
            state.missing.removed(range);
            left(range, state);
        }
        Event::Remap { from, to, length } => {
            let end = lifeboat_proto::units::RemoteAddr(from.0.saturating_add(length));
            let range = PageRun::covering(from, end);
            state.missing.moved(range, to.page());
            left(range, state);
        }
        Event::Fork { child } => children.push(forked(process, state, child)),
    }
}

/// The child of `process`, missing what it missed.
fn forked(process: &Process, state: &State, child: Uffd) -> Process {
    let has = |page: PageIndex| child.takes_pages(page).ok().flatten().unwrap_or(true);
    let id = ProcessId {
        pid: process.id.pid,
        forked: crate::process::next_child(),
    };
    let missing = state.missing.fork(id, has);
    Process::new(id, child, missing, true)
}
