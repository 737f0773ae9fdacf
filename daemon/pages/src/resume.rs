//! Going on with a load whose server was killed.
//!
//! Its [`Journal`](crate::Journal) says what it knew, a guard has the descriptors, and the kernel has
//! kept everything that was not read: faults, and events whose threads wait. So what is missing is
//! what the journal says, and what the kernel says of each page when it is put in (EEXIST). Faults
//! that the predecessor had read and not answered are told again: all threads that wait are woken,
//! and look again.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::uffd::Uffd;

use crate::{
    FrameSource, History, Options, PageServer, Space, StartError,
    journal::{Change, Log},
    missing::Missing,
    process::{Health, Process, ProcessId, is_taken},
};

/// Names a process to whoever guards its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guarded {
    /// PID of the process that was restored, as in the checkpoint.
    pub pid: u32,
    /// 0, or a number of its own for a process that was forked while loading.
    pub forked: u32,
}

/// Why a load cannot be gone on with. Kill the processes; until then they block.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It could not begin.
    #[error("start the page-fault server again")]
    Start(#[source] StartError),
    /// The predecessor had not taken over all processes.
    #[error("the predecessor had not taken over all processes")]
    Unfinished,
    /// The journal tells of what cannot have happened.
    #[error("the journal tells of a change of {process} that cannot have happened")]
    Impossible {
        /// The process.
        process: String,
    },
    /// Nobody has kept a process's descriptor.
    #[error("nobody has kept the userfaultfd of {process}")]
    Unguarded {
        /// The process.
        process: String,
    },
    /// The kernel refused.
    #[error("serving {process} again")]
    Kernel {
        /// The process.
        process: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Lowest page that can be waited for, and the ends of address spaces: of four and five levels of
/// page tables. The kernel refuses a range that goes beyond.
const LOWEST: u64 = 16;
const ENDS: [u64; 2] = [(1 << 35) - 1, (1 << 44) - 1];

impl From<ProcessId> for Guarded {
    fn from(id: ProcessId) -> Self {
        let ProcessId { pid, forked } = id;
        Self { pid, forked }
    }
}

impl From<Guarded> for ProcessId {
    fn from(guarded: Guarded) -> Self {
        let Guarded { pid, forked } = guarded;
        Self { pid, forked }
    }
}

impl PageServer {
    /// Goes on with the load that `history` tells of: `spaces` are what the predecessor was started
    /// with, `options` name the journal that goes on, `descriptors` are what a guard has kept.
    ///
    /// # Errors
    /// What is missing cannot be proved, or not be served: kill the processes.
    pub fn resume(
        source: Arc<dyn FrameSource>,
        spaces: Vec<Space>,
        options: Options,
        history: &History,
        descriptors: Vec<(Guarded, OwnedFd)>,
    ) -> Result<Self, ResumeError> {
        let server = Self::over(source, spaces, options).map_err(ResumeError::Start)?;
        let mut descriptors: BTreeMap<ProcessId, OwnedFd> = descriptors
            .into_iter()
            .map(|(guarded, uffd)| (guarded.into(), uffd))
            .collect();
        for (id, mut missing) in server.past(history)? {
            let process = id.to_string();
            let Some(uffd) = descriptors.remove(&id) else {
                return Err(ResumeError::Unguarded { process });
            };
            missing.log_to(Log::new(server.load.options.journal.as_ref(), id));
            let forked = u32::from(id.forked > 0);
            let figures = &server.load.figures;
            figures.forked.fetch_add(forked, Relaxed);
            let served = Arc::new(Process::new(id, Uffd::from(uffd), missing, true));
            let served_again = server.load.serve_guarded(&served);
            served_again.map_err(|source| ResumeError::Kernel { process, source })?;
            wake_all(&served)?;
        }
        server.load.all_added.store(true, Relaxed);
        server.run().map_err(ResumeError::Start)?;
        Ok(server)
    }

    /// What was missing of whom when the predecessor died.
    fn past(&self, history: &History) -> Result<BTreeMap<ProcessId, Missing>, ResumeError> {
        let mut past: BTreeMap<ProcessId, Missing> = BTreeMap::new();
        let mut all_added = false;
        for (id, change) in &history.changes {
            let impossible = || ResumeError::Impossible {
                process: id.to_string(),
            };
            is_taken(id.forked);
            match change {
                Change::Served => {
                    let layout = self.load.layouts.get(&id.pid).ok_or_else(impossible)?;
                    past.insert(*id, Missing::new(Arc::clone(layout)));
                }
                Change::AllAdded => all_added = true,
                Change::Gone => drop(past.remove(id)),
                change => {
                    let missing = past.get_mut(id).ok_or_else(impossible)?;
                    let child = missing.again(change).map_err(|_| impossible())?;
                    if let (Some(child), Change::Forked(forked, _)) = (child, change) {
                        let pid = id.pid;
                        past.insert(
                            ProcessId {
                                pid,
                                forked: *forked,
                            },
                            child,
                        );
                    }
                }
            }
        }
        if all_added {
            Ok(past)
        } else {
            Err(ResumeError::Unfinished)
        }
    }
}

/// Has every thread that waits ask again.
fn wake_all(process: &Process) -> Result<(), ResumeError> {
    // The longest range that the kernel takes covers all others.
    let woken = ENDS.map(|end| {
        let all = PageRun::new(PageIndex(LOWEST), end - LOWEST);
        process.uffd.wake(all)
    });
    match woken {
        [Err(error), Err(_)] if process.health() != Health::Gone => Err(ResumeError::Kernel {
            process: process.id.to_string(),
            source: io::Error::other(error),
        }),
        _ => Ok(()),
    }
}
