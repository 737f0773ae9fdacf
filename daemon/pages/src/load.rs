//! What the threads and tasks of one load share.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use lifeboat_format::frame::VerifiedFrame;
use rustix::event::epoll;
use tokio::sync::{Notify, watch};

use crate::{
    FrameSource, LoadError, Options, Progress, Report, Urgency,
    budget::Budget,
    figures::Figures,
    frames::{Asked, Frames},
    install::Installed,
    journal::Change,
    layout::Layout,
    plan::Plan,
    process::{Process, ProcessId},
    ready::{Item, Ready},
    sync::lock,
};

/// The token of the doorbell among those of processes.
pub(crate) const DOORBELL: u64 = 0;

/// How a load ended.
pub(crate) type Outcome = Result<Report, LoadError>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) source: Arc<dyn FrameSource>,
    pub(crate) options: Options,
    pub(crate) layouts: BTreeMap<u32, Arc<Layout>>,
    /// Content of each frame that the layouts need, in bytes.
    frame_bytes: Vec<u32>,
    /// Who is served, by token.
    pub(crate) processes: Mutex<BTreeMap<u64, Arc<Process>>>,
    tokens: AtomicU32,
    pub(crate) epoll: OwnedFd,
    doorbell: OwnedFd,
    pub(crate) frames: Mutex<Frames>,
    pub(crate) plan: Mutex<Plan>,
    pub(crate) ready: Ready,
    pub(crate) budget: Arc<Budget>,
    /// Told when the fetcher has something to do: a demand, freed memory, a new phase.
    pub(crate) fetcher: Arc<Notify>,
    pub(crate) outcome: watch::Sender<Option<Outcome>>,
    pub(crate) all_added: AtomicBool,
    pub(crate) paused: AtomicU32,
    /// Nothing is missing of the processes that were restored.
    pub(crate) restored_complete: AtomicBool,
    /// The fault thread ends.
    pub(crate) finished: AtomicBool,
    pub(crate) figures: Figures,
    began: Mutex<Option<Instant>>,
    total_pages: u64,
}

impl Load {
    pub(crate) fn new(
        source: Arc<dyn FrameSource>,
        layouts: BTreeMap<u32, Arc<Layout>>,
        options: Options,
        epoll: OwnedFd,
        doorbell: OwnedFd,
    ) -> Self {
        let list: Vec<Arc<Layout>> = layouts.values().cloned().collect();
        let frame_bytes = frame_bytes(&list);
        let fetcher = Arc::new(Notify::new());
        let (most, reserve) = (options.memory_bytes_max, options.demand_reserve_bytes);
        let budget = Budget::new(most, reserve, Arc::clone(&fetcher));
        let frames = frame_bytes.len();
        Self {
            source,
            total_pages: list.iter().map(|layout| u64::from(layout.pages())).sum(),
            plan: Mutex::new(Plan::new(&list, frames, budget.prefetch_most())),
            layouts,
            frame_bytes,
            processes: Mutex::default(),
            tokens: AtomicU32::new(1),
            epoll,
            doorbell,
            frames: Mutex::new(Frames::new(frames)),
            ready: Ready::default(),
            budget,
            fetcher,
            outcome: watch::Sender::new(None),
            all_added: AtomicBool::new(false),
            paused: AtomicU32::new(0),
            restored_complete: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            figures: Figures::default(),
            began: Mutex::default(),
            options,
        }
    }

    /// Content of a frame that is needed, in bytes.
    pub(crate) fn bytes_of(&self, frame: u32) -> u64 {
        self.frame_bytes
            .get(frame as usize)
            .map_or(0, |bytes| u64::from(*bytes))
    }

    /// Whether nothing is to be fetched or installed any more.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.borrow().is_some() || self.finished.load(Relaxed)
    }

    /// Whether everything is in.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(&*self.outcome.borrow(), Some(Ok(_)))
    }

    /// Ends the load, if it has not ended. Processes that miss pages block from now on.
    pub(crate) fn fail(&self, error: LoadError) {
        let first = self.outcome.send_if_modified(|outcome| {
            let first = outcome.is_none();
            if first {
                tracing::error!(error = %crate::error::Chain(&error), "loading memory failed");
                *outcome = Some(Err(error));
            }
            first
        });
        if first {
            self.stop();
        }
    }

    /// Ends the load well.
    pub(crate) fn succeed(&self) {
        let report = self.report();
        self.outcome.send_if_modified(|outcome| {
            let first = outcome.is_none();
            if first {
                *outcome = Some(Ok(report));
            }
            first
        });
        self.stop();
    }

    fn stop(&self) {
        self.ready.close();
        self.fetcher.notify_one();
        self.ring();
    }

    /// Wakes the fault thread.
    pub(crate) fn ring(&self) {
        // EAGAIN: it is rung already, in a way nobody can miss.
        if let Err(error) = rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes())
            && error != rustix::io::Errno::AGAIN
        {
            tracing::warn!(%error, "the fault thread cannot be woken");
        }
    }

    /// The doorbell was heard.
    pub(crate) fn heard(&self) {
        let mut rings = [0; 8];
        match rustix::io::read(&self.doorbell, &mut rings) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => tracing::warn!(%error, "the doorbell cannot be silenced"),
        }
    }

    /// Serves a process from now on.
    pub(crate) fn serve(&self, process: &Arc<Process>) -> io::Result<()> {
        if let Some(guard) = &self.options.guard {
            let uffd = process.uffd.try_clone().map_err(io::Error::other)?;
            guard.keep(process.id.into(), uffd.into())?;
        }
        self.serve_guarded(process)
    }

    /// The same for a process that is guarded already.
    pub(crate) fn serve_guarded(&self, process: &Arc<Process>) -> io::Result<()> {
        lock(&self.began).get_or_insert_with(Instant::now);
        let token = u64::from(self.tokens.fetch_add(1, Relaxed));
        self.figures.processes.fetch_add(1, Relaxed);
        lock(&self.processes).insert(token, Arc::clone(process));
        let data = epoll::EventData::new_u64(token);
        let added = epoll::add(&self.epoll, &process.uffd, data, epoll::EventFlags::IN);
        if added.is_err() {
            lock(&self.processes).remove(&token);
        }
        Ok(added?)
    }

    /// Writes down what is not about the memory of one process.
    pub(crate) fn note(&self, process: ProcessId, change: &Change) {
        if let Some(journal) = &self.options.journal {
            journal.note(process, change);
        }
    }

    /// Forgets a process that is gone.
    pub(crate) fn forget(&self, token: u64) {
        let Some(process) = lock(&self.processes).remove(&token) else {
            return;
        };
        self.note(process.id, &Change::Gone);
        if let Err(error) = epoll::delete(&self.epoll, &process.uffd) {
            tracing::debug!(process = %process.id, %error, "already left the set of descriptors");
        }
    }

    /// All processes that are served.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        lock(&self.processes).values().cloned().collect()
    }

    /// Whether the memory of a process is loaded ahead of its faults.
    ///
    /// What was forked while loading waits until what was restored is complete: most children run
    /// another program or end soon, and what is put into them is not shared with their parents.
    pub(crate) fn is_loaded_ahead(&self, process: &Process) -> bool {
        process.id.forked == 0 || self.restored_complete.load(Relaxed)
    }

    /// Whether a frame is missing somewhere.
    pub(crate) fn wants(&self, frame: u32, urgency: Urgency) -> bool {
        lock(&self.processes).values().any(|process| {
            (urgency == Urgency::Demand || self.is_loaded_ahead(process)) && process.wants(frame)
        })
    }

    /// Faults wait for these frames.
    pub(crate) fn demand(&self, frames: &[u32]) {
        for &frame in frames {
            lock(&self.plan).faulted(frame);
            let asked = lock(&self.frames).ask(frame);
            match asked {
                Asked::Queued => self.fetcher.notify_one(),
                Asked::Coming => self.ready.promote(frame),
            }
        }
    }

    /// Frames have come: they wait for an installer now.
    pub(crate) fn came(&self, item: Item) {
        self.figures.frames_fetched.fetch_add(1, Relaxed);
        let demand = lock(&self.frames).fetched(item.frame);
        if let Some(demand) = demand {
            self.ready.push(item, demand);
        }
    }

    /// Installs a frame wherever it is missing. Whether that must be tried again later.
    pub(crate) fn install(&self, frame: u32, content: &VerifiedFrame) -> bool {
        loop {
            let mut later = false;
            for process in self.all() {
                let waiting = !self.is_loaded_ahead(&process);
                match process.install(frame, content, waiting, &self.figures) {
                    Ok(Installed::All) => {}
                    Ok(Installed::Later) => later = true,
                    Err(error) => self.fail(error),
                }
                if process.is_finishing() {
                    self.ring();
                }
            }
            if later {
                return true;
            }
            if !lock(&self.frames).installed(frame) {
                return false;
            }
        }
    }

    /// Figures up to now.
    pub(crate) fn progress(&self) -> Progress {
        const PAGE: u64 = lifeboat_proto::units::PAGE_SIZE;
        let processes = self.all();
        let added: Vec<u32> = processes.iter().map(|process| process.id.pid).collect();
        let to_come = |(pid, layout): (&u32, &Arc<Layout>)| {
            if added.contains(pid) || self.all_added.load(Relaxed) {
                0
            } else {
                layout.pages()
            }
        };
        let missing = processes
            .iter()
            .map(|process| process.remaining())
            .sum::<u64>()
            + self.layouts.iter().map(to_come).map(u64::from).sum::<u64>();
        Progress {
            total_bytes: self.total_pages * PAGE,
            missing_bytes: missing * PAGE,
            installed_bytes: self.figures.installed_pages.load(Relaxed) * PAGE,
            demand_faults: self.figures.demand_faults.load(Relaxed),
            zero_faults: self.figures.zero_faults.load(Relaxed),
            frames_fetched: self.figures.frames_fetched.load(Relaxed),
            memory_bytes: self.budget.used(),
            processes: self.figures.processes.load(Relaxed),
            forked: self.figures.forked.load(Relaxed),
        }
    }

    fn report(&self) -> Report {
        let waits = &self.figures.waits;
        Report {
            progress: self.progress(),
            elapsed: lock(&self.began)
                .map(|began| began.elapsed())
                .unwrap_or_default(),
            demand_p50: waits.quantile(500),
            demand_p99: waits.quantile(990),
            demand_max: waits.longest(),
        }
    }
}

/// What the layouts need of each frame, in bytes: up to the last page that a run names.
fn frame_bytes(layouts: &[Arc<Layout>]) -> Vec<u32> {
    const PAGE: u32 = 4096;
    let runs = || layouts.iter().flat_map(|layout| layout.runs());
    let frames = runs().map(|run| run.frame as usize + 1).max().unwrap_or(0);
    let mut bytes = vec![0; frames];
    for run in runs() {
        let slot: &mut u32 = &mut bytes[run.frame as usize];
        *slot = (*slot).max((run.frame_page + run.pages) * PAGE);
    }
    bytes
}

/// Fails the load when its owner panics: without it, the load would hang.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) load: Arc<Load>,
    pub(crate) who: &'static str,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.load.fail(LoadError::Panicked { who: self.who });
        }
    }
}
