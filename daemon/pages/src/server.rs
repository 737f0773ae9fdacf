//! The page server's outside: what the daemon calls.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{IntoRawFd, OwnedFd},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use lifeboat_format::Decoder;
use lifeboat_sys::uffd::Uffd;
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::{
    AddError, Arrived, FrameSource, LoadError, Options, Progress, Report, Run, Space, SpaceError,
    StartError,
    error::Chain,
    faults, fetch,
    journal::{Change, Log},
    layout::Layout,
    load::{DOORBELL, Load, Watch},
    missing::Missing,
    process::{Health, NOBODY, Process, ProcessId},
    ready::Item,
    sync::{lock, write},
};

/// Serves the memory of one restored process tree.
///
/// Dropping it while its load is not complete ends its threads, and leaves the descriptors of
/// processes that live open for ever: processes that block are better than processes that see zeros.
#[derive(Debug)]
pub struct PageServer {
    pub(crate) load: Arc<Load>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Prefetch is paused while this lives.
#[derive(Debug)]
pub struct Paused {
    load: Arc<Load>,
}

/// A process still lives although its load was to be given up.
#[derive(Debug, thiserror::Error)]
#[error("{process} still lives: closing its userfaultfd would turn missing pages into zeros")]
pub struct StillAlive {
    /// One of them.
    pub process: String,
}

impl PageServer {
    /// Starts the fault thread, the installers and the fetcher.
    ///
    /// # Errors
    /// Nothing was started.
    pub fn start(
        source: Arc<dyn FrameSource>,
        spaces: Vec<Space>,
        options: Options,
    ) -> Result<Self, StartError> {
        let server = Self::over(source, spaces, options)?;
        server.run()?;
        Ok(server)
    }

    /// A server that does nothing yet.
    pub(crate) fn over(
        source: Arc<dyn FrameSource>,
        spaces: Vec<Space>,
        options: Options,
    ) -> Result<Self, StartError> {
        let mut layouts = BTreeMap::new();
        for space in spaces {
            space.validate().map_err(StartError::Space)?;
            let pid = space.pid;
            if layouts.insert(pid, Arc::new(Layout::new(space))).is_some() {
                return Err(StartError::Space(SpaceError::Twice { pid }));
            }
        }
        let kernel = |step| {
            move |error| StartError::Kernel {
                step,
                source: io::Error::from(error),
            }
        };
        let set =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(kernel("the descriptor set"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let doorbell = eventfd(0, flags).map_err(kernel("the doorbell"))?;
        let data = epoll::EventData::new_u64(DOORBELL);
        epoll::add(&set, &doorbell, data, epoll::EventFlags::IN).map_err(kernel("the doorbell"))?;
        let load = Arc::new(Load::new(source, layouts, options, set, doorbell));
        Ok(Self {
            load,
            threads: Mutex::default(),
        })
    }

    /// Begins to serve.
    pub(crate) fn run(&self) -> Result<(), StartError> {
        let load = &self.load;
        self.spawn("lb-faults", faults::run)?;
        for _ in 0..load.options.installers.max(1) {
            self.spawn("lb-install", install)?;
        }
        drop(load.options.runtime.spawn(fetch::run(Arc::clone(load))));
        Ok(())
    }

    fn spawn(&self, name: &str, run: fn(&Arc<Load>)) -> Result<(), StartError> {
        let load = Arc::clone(&self.load);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&load));
        let thread = thread.map_err(|source| StartError::Kernel {
            step: "starting a thread",
            source,
        })?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Serves a process from now on. `uffd` must be non-blocking.
    ///
    /// # Errors
    /// The descriptor is closed; kill the process.
    pub fn add(&self, pid: u32, uffd: OwnedFd) -> Result<(), AddError> {
        let layout = self
            .load
            .layouts
            .get(&pid)
            .ok_or(AddError::Unknown { pid })?;
        if self.load.is_over() {
            return Err(AddError::Ended { pid });
        }
        if self
            .load
            .all()
            .iter()
            .any(|process| process.id == ProcessId { pid, forked: 0 })
        {
            return Err(AddError::Twice { pid });
        }
        let mut missing = Missing::new(Arc::clone(layout));
        let id = ProcessId { pid, forked: 0 };
        let journal = self.load.options.journal.as_ref();
        missing.log_to(Log::new(journal, id));
        self.load.note(id, &Change::Served);
        let process = Process::new(id, Uffd::from(uffd), missing, false);
        let step = "serving a userfaultfd";
        self.load
            .serve(&Arc::new(process))
            .map_err(|source| AddError::Kernel { pid, step, source })
    }

    /// Every process was handed over and has its mappings registered: prefetch may begin.
    pub fn all_added(&self) {
        let processes = self.load.all();
        for process in &processes {
            process.set_registered();
        }
        let missing = self.load.layouts.values().find(|layout| {
            layout.pages() > 0 && !processes.iter().any(|process| process.id.pid == layout.pid)
        });
        if let Some(layout) = missing {
            self.load.fail(LoadError::NotHandedOver { pid: layout.pid });
        }
        self.load.note(NOBODY, &Change::AllAdded);
        self.load.all_added.store(true, Relaxed);
        self.load.fetcher.notify_one();
        self.load.ring();
    }

    /// Waits until every page is in. Then let the guard drop its descriptors, and [`Self::finish`].
    ///
    /// # Errors
    /// The load failed: kill the processes, then [`Self::abort`]. Until then they block.
    pub async fn loaded(&self) -> Result<Report, LoadError> {
        let mut outcome = self.load.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(LoadError::Aborted),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.load.progress()
    }

    /// Stops prefetch, and waits until what was under way is installed. Faults are still answered.
    pub async fn pause(&self) -> Paused {
        self.load.paused.fetch_add(1, Relaxed);
        let paused = Paused {
            load: Arc::clone(&self.load),
        };
        while self.load.budget.prefetch() > 0 && !self.load.is_over() {
            tokio::time::sleep(PAUSE_POLL).await;
        }
        paused
    }

    /// Captured pages of a process that are not loaded yet, at their present addresses. Stable
    /// while the process is frozen and prefetch is paused (a fault may still load one: its frame
    /// says the same as memory then). `None`: no such process.
    #[must_use]
    pub fn unloaded(&self, pid: u32) -> Option<Vec<Run>> {
        let id = ProcessId { pid, forked: 0 };
        let process = self
            .load
            .all()
            .into_iter()
            .find(|process| process.id == id)?;
        // What an installer is putting in counts as loaded.
        let _gate = write(&process.gate);
        let state = lock(&process.state);
        Some(state.missing.unloaded())
    }

    /// Duplicates of all descriptors, those of processes forked while loading included.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let duplicate = |process: &Arc<Process>| process.uffd.try_clone().map(OwnedFd::from);
        self.load
            .all()
            .iter()
            .map(|process| duplicate(process).map_err(io::Error::other))
            .collect()
    }

    /// Gives a load up whose processes are dead, and closes the descriptors. A load that is complete
    /// may be given up any time.
    ///
    /// # Errors
    /// One lives: nothing was closed, faults block; kill it and call again.
    pub fn abort(&self) -> Result<(), StillAlive> {
        self.load.fail(LoadError::Aborted);
        if !self.load.is_complete() {
            // What is under way in a thread keeps a dead process's memory alive.
            self.end_threads();
            let mut all = self.load.all().into_iter();
            if let Some(process) = all.find(|process| process.health() != Health::Gone) {
                return Err(StillAlive {
                    process: process.id.to_string(),
                });
            }
        }
        self.close();
        Ok(())
    }

    /// Ends the service of a completed load and closes the descriptors. Without effect while the
    /// load is not complete: see [`PageServer`].
    pub fn finish(&self) {
        if self.load.is_complete() {
            self.close();
        }
    }

    fn end_threads(&self) {
        self.load.finished.store(true, Relaxed);
        self.load.ready.close();
        self.load.fetcher.notify_one();
        self.load.ring();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the page-fault server has panicked");
            }
        }
    }

    fn close(&self) {
        self.end_threads();
        let processes = std::mem::take(&mut *lock(&self.load.processes));
        for process in processes.into_values() {
            if let Err(error) = epoll::delete(&self.load.epoll, &process.uffd) {
                tracing::debug!(process = %process.id, %error, "not in the set of descriptors");
            }
        }
    }
}

/// How often [`PageServer::pause`] looks.
const PAUSE_POLL: std::time::Duration = std::time::Duration::from_millis(2);

impl Drop for PageServer {
    fn drop(&mut self) {
        self.load.fail(LoadError::Aborted);
        self.end_threads();
        if !self.load.is_complete() {
            for process in self.load.all() {
                if process.health() != Health::Gone {
                    tracing::error!(process = %process.id, "left to block: memory is missing");
                    if let Ok(duplicate) = process.uffd.try_clone() {
                        let _left_open = OwnedFd::from(duplicate).into_raw_fd();
                    }
                }
            }
        }
        self.close();
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.load.paused.fetch_sub(1, Relaxed);
        self.load.fetcher.notify_one();
    }
}

/// An installer thread: verifies whatever has come, and installs it wherever it is missing.
fn install(load: &Arc<Load>) {
    let _watch = Watch {
        load: Arc::clone(load),
        who: "installer",
    };
    let mut decoder = Decoder::new();
    while let Some(Item {
        frame,
        content,
        permit,
    }) = load.ready.pop()
    {
        let content = match content.verify(&mut decoder) {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(frame, error = %Chain(&error), "a frame is fetched again");
                lock(&load.frames).damaged(frame);
                load.fetcher.notify_one();
                continue;
            }
        };
        if load.install(frame, &content) {
            let content = Arrived::verified(content);
            load.ready.push(
                Item {
                    frame,
                    content,
                    permit,
                },
                true,
            );
        }
    }
}
