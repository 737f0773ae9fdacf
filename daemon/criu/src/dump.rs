//! One dump, from start to verdict.
//!
//! ```text
//! start ─▶ described ─┬▶ committing ─┬▶ release: killed (or resumed, if so asked)
//!                     └▶ abort       └▶ abort: the tree runs on
//! ```
//!
//! Until [`Described::committing`] every failure, and dropping any of the values, ends in a tree
//! that runs on: CRIU is left without the sockets it needs and cleans up. After it, a tree whose
//! daemon is lost stays frozen until [`Pending::adopt`].

use std::{
    collections::BTreeSet,
    io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_proto::units::PageRun;
use rustix::process::Signal;
use tokio::sync::oneshot;

use crate::{
    Bundle, DumpRequest, ImageError, ImageSet, ImageSink, LogSummary, WorkDir,
    capture::{self, CaptureError},
    command::{self, Criu, EXIT_WITHIN, Invocation, StartError},
    filter::{self, FilterError, SharedObject},
    gone,
    hook::{Hook, HookListener, Stage},
    images::ImagesError,
    log, protocol,
    task::Task,
};

mod pending;

pub use pending::Pending;

/// Name of CRIU's log in the work directory.
const LOG: &str = "dump.log";

/// What CRIU asks the daemon while it dumps.
pub trait DumpDelegate: Send + Sync + 'static {
    /// Every thread of the tree is stopped now and stays so until the verdict: reading memory may
    /// start. Called once, before all other questions. Must return at once.
    fn frozen(&self);

    /// The pages of the process (PID as CRIU sees it) that CRIU shall not see, ascending and
    /// disjoint. Called once for each process, on a thread that may block for a few seconds; the
    /// tree waits.
    ///
    /// Only private anonymous mappings can be hidden (CRIU takes shared memory from elsewhere), and
    /// executable ones should not be: CRIU patches an instruction there for a moment whenever it
    /// lets the process make a system call.
    ///
    /// # Errors
    /// Aborts the dump.
    fn hidden(&self, inner_pid: u32) -> Result<Vec<PageRun>, ImageError>;

    /// The pages of a shared memory object (counted from its beginning) that CRIU shall not see.
    /// Called once for each object, for other files too; on a thread that may block.
    ///
    /// A restore must fill them: see [`crate::images::shared`].
    ///
    /// # Errors
    /// Aborts the dump.
    fn hidden_object(&self, object: SharedObject) -> Result<Vec<PageRun>, ImageError> {
        let _ = object;
        Ok(Vec::new())
    }

    /// What CRIU shall read as `/proc/PID/smaps` of the process; `None`: the file itself, which
    /// takes the kernel 20 to 60 ms for each GiB of small pages. See [`crate::smaps::Smaps`].
    /// Called before [`DumpDelegate::hidden`] for the same process; on a thread that may block.
    fn smaps(&self, inner_pid: u32) -> Option<Vec<u8>> {
        let _ = inner_pid;
        None
    }
}

/// Why a dump failed. Unless said otherwise the tree runs on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// CRIU was not started; the tree was not touched.
    #[error("start a dump")]
    Start(#[source] StartError),
    /// CRIU gave up.
    #[error("criu dump of process {inner_pid}: {summary}")]
    Refused {
        /// The tree.
        inner_pid: u32,
        /// What its log says.
        summary: Box<LogSummary>,
    },
    /// The images could not be taken.
    #[error("dump of process {inner_pid} aborted")]
    Capture {
        /// The tree.
        inner_pid: u32,
        /// Why.
        source: CaptureError,
    },
    /// The images do not even tell the processes.
    #[error("dump of process {inner_pid} aborted: criu wrote images that cannot be read")]
    Images {
        /// The tree.
        inner_pid: u32,
        /// Why.
        source: ImagesError,
    },
    /// The hidden pages could not be told.
    #[error("dump of process {inner_pid} aborted")]
    Filter {
        /// The tree.
        inner_pid: u32,
        /// Why.
        source: FilterError,
    },
    /// The hook could not be heard or told.
    #[error("talk to the hook that holds the dump of process {inner_pid}")]
    Hook {
        /// The tree.
        inner_pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The tree was not described in time.
    #[error("dump of process {inner_pid} aborted: not described within {within:?}")]
    Late {
        /// The tree.
        inner_pid: u32,
        /// The time that it had.
        within: Duration,
    },
    /// CRIU was told to end but did not. The tree may be frozen; nothing may be assumed about it.
    #[error("criu has not ended {EXIT_WITHIN:?} after it was told to: {doing}")]
    Stuck {
        /// What it was told.
        doing: &'static str,
    },
    /// The commit was acknowledged and CRIU told to finish, but it failed to. The caller must see
    /// to it that the tree is dead (if it was to be killed).
    #[error("criu failed to finish a committed dump: {summary}")]
    Unfinished {
        /// What its log says.
        summary: Box<LogSummary>,
    },
    /// CRIU's end could not be waited for.
    #[error("wait for criu")]
    Wait(#[source] io::Error),
}

impl DumpError {
    /// What CRIU said, if it was CRIU that refused.
    #[must_use]
    pub fn summary(&self) -> Option<&LogSummary> {
        match self {
            Self::Refused { summary, .. } | Self::Unfinished { summary } => Some(summary),
            _ => None,
        }
    }

    /// Whether the tree may still be frozen, or alive where it should be dead.
    #[must_use]
    pub fn leaves_tree_uncertain(&self) -> bool {
        matches!(
            self,
            Self::Stuck { .. } | Self::Unfinished { .. } | Self::Wait(_)
        )
    }

    /// Whether the same dump may succeed when tried again soon.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Late { .. } | Self::Hook { .. } | Self::Capture { .. } => true,
            Self::Refused { summary, .. } => summary.refusal.is_none_or(log::Refusal::may_pass),
            _ => false,
        }
    }
}

/// A dump under way. Dropping it aborts the dump.
#[derive(Debug)]
pub struct Dump {
    held: Held,
    hooks: HookListener,
    capture: Task<Result<ImageSet, CaptureError>>,
    filter: Task<Result<(), FilterError>>,
    asked_for_all: oneshot::Sender<()>,
    deadline: Instant,
    within: Duration,
}

/// What is there from start to end.
#[derive(Debug)]
struct Held {
    criu: Criu,
    inner_pid: u32,
    work_dir: WorkDir,
    leave_running: bool,
    /// PIDs of the tree, once it is described.
    pids: BTreeSet<u32>,
}

impl Dump {
    /// Starts CRIU. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// The tree was not touched.
    #[expect(clippy::unused_async, reason = "spawns tasks: a runtime must be there")]
    pub async fn start(
        bundle: &Bundle,
        request: DumpRequest,
        delegate: Arc<dyn DumpDelegate>,
        sink: Arc<dyn ImageSink>,
    ) -> Result<Self, DumpError> {
        let deadline = Instant::now() + request.describe_within;
        let work_dir = request.work_dir.clone();
        let begin = || {
            command::check_work_dir(&work_dir)?;
            let hooks = HookListener::bind(&work_dir)?;
            let streamer = capture::bind(&work_dir)?;
            let (ours, theirs) = filter::pair().map_err(|source| StartError::Socket {
                name: "the page filter's",
                path: work_dir.here.clone(),
                source,
            })?;
            let (inner_pid, within) = (request.inner_pid, request.describe_within);
            let leave_running = request.leave_running;
            let criu = invocation(bundle, &request, theirs)?.start(bundle, request.namespaces)?;
            let (asked_for_all, done) = oneshot::channel();
            Ok(Self {
                held: Held {
                    criu,
                    inner_pid,
                    work_dir: work_dir.clone(),
                    leave_running,
                    pids: BTreeSet::new(),
                },
                hooks,
                capture: Task::spawn(capture::serve(streamer, sink, done)),
                filter: Task::spawn(filter::serve(ours, delegate)),
                asked_for_all,
                deadline,
                within,
            })
        };
        begin().map_err(DumpError::Start)
    }

    /// Waits until everything about the tree was written and every image file has ended. The tree
    /// is held frozen then.
    ///
    /// # Errors
    /// The dump was aborted.
    pub async fn described(self) -> Result<Described, DumpError> {
        let Self {
            mut held,
            hooks,
            mut capture,
            mut filter,
            asked_for_all,
            deadline,
            within,
        } = self;
        let inner_pid = held.inner_pid;
        let deadline = tokio::time::Instant::from_std(deadline);
        let described = async {
            let hook = first_hook(&mut held, &hooks, &mut capture, &mut filter).await?;
            // Unheard only if the capture has failed already; its result says why.
            let _unheard = asked_for_all.send(());
            let images = capture.result().await;
            let images = images.map_err(|source| Some(DumpError::Capture { inner_pid, source }))?;
            Ok((hook, images))
        };
        let cause = match tokio::time::timeout_at(deadline, described).await {
            Ok(Ok((hook, images))) => match images.tasks() {
                Ok(tasks) => {
                    held.pids = tasks.iter().map(|task| task.pid).collect();
                    return Ok(Described {
                        held,
                        hook,
                        hooks,
                        images,
                    });
                }
                Err(source) => Some(DumpError::Images { inner_pid, source }),
            },
            Ok(Err(cause)) => cause,
            Err(_) => Some(DumpError::Late { inner_pid, within }),
        };
        // CRIU gives up when what it talks to is gone.
        drop((hooks, capture, filter));
        held.ended("abort").await?;
        Err(cause.unwrap_or_else(|| held.refused()))
    }
}

/// Waits for the hook that says that everything was written. An error without a cause: CRIU has
/// ended by itself.
async fn first_hook(
    held: &mut Held,
    hooks: &HookListener,
    capture: &mut Task<Result<ImageSet, CaptureError>>,
    filter: &mut Task<Result<(), FilterError>>,
) -> Result<Hook, Option<DumpError>> {
    let inner_pid = held.inner_pid;
    let hook_error = |source| Some(DumpError::Hook { inner_pid, source });
    // One future for all rounds: cancelled, it would drop a hook's connection.
    let hook = hooks.accept();
    tokio::pin!(hook);
    let mut filter_done = false;
    loop {
        tokio::select! {
            hook = &mut hook => {
                let hook = hook.map_err(hook_error)?;
                return if hook.stage == Stage::PostDump && !hook.again {
                    Ok(hook)
                } else {
                    Err(hook_error(io::ErrorKind::InvalidData.into()))
                };
            }
            ended = held.criu.ended() => return Err(ended.err().map(DumpError::Wait)),
            served = filter.result(), if !filter_done => match served {
                Ok(()) => filter_done = true,
                Err(source) => return Err(Some(DumpError::Filter { inner_pid, source })),
            },
            captured = capture.result() => return match captured {
                Err(source) => Err(Some(DumpError::Capture { inner_pid, source })),
                // CRIU has closed its connection before the hook: it is giving up.
                Ok(_) => Err(None),
            },
        }
    }
}

/// CRIU's command line for a dump.
fn invocation(
    bundle: &Bundle,
    request: &DumpRequest,
    filter: std::os::fd::OwnedFd,
) -> Result<Invocation, StartError> {
    let mut invocation = Invocation::new("dump", LOG, &request.work_dir, bundle);
    invocation
        .arg("--tree")
        .arg(request.inner_pid.to_string())
        .arg("--ghost-limit")
        .arg(request.ghost_bytes_max.to_string())
        .tcp(request.tcp)
        .externals(&request.external);
    if request.leave_running {
        invocation
            .arg("--leave-running")
            .env(protocol::ENV_LEAVE_RUNNING, "1");
    }
    for (name, value) in &request.environment {
        invocation.env(name, value);
    }
    invocation.filtered(bundle, filter)?;
    Ok(invocation)
}

impl Held {
    fn refused(&self) -> DumpError {
        DumpError::Refused {
            inner_pid: self.inner_pid,
            summary: Box::new(self.summary()),
        }
    }

    fn summary(&self) -> LogSummary {
        log::summary(&self.work_dir.here.join(LOG), &self.criu.output())
    }

    fn hook_error(&self, source: io::Error) -> DumpError {
        DumpError::Hook {
            inner_pid: self.inner_pid,
            source,
        }
    }

    async fn lost(&mut self, hook: &mut Hook) -> DumpError {
        tokio::select! {
            source = hook.lost() => self.hook_error(source),
            ended = self.criu.ended() => match ended {
                Ok(_) => self.refused(),
                Err(source) => DumpError::Wait(source),
            },
        }
    }

    /// Whether the tree that was to be killed is.
    async fn tree_is_gone(&self) -> bool {
        if self.leave_running {
            return false;
        }
        let (namespace, pids) = (self.criu.pid_namespace(), self.pids.clone());
        let deadline = Instant::now() + EXIT_WITHIN;
        let wait = move || gone::wait(namespace?, &pids, deadline);
        match tokio::task::spawn_blocking(wait).await {
            Ok(Ok(gone)) => gone,
            Ok(Err(error)) => {
                tracing::warn!(inner_pid = self.inner_pid, %error, "look for the killed tree");
                false
            }
            Err(_) => false,
        }
    }

    /// Waits for CRIU's end after the verdict.
    async fn ended(&mut self, doing: &'static str) -> Result<ExitStatus, DumpError> {
        let ended = self.criu.ended_in_time().await.map_err(DumpError::Wait)?;
        ended.ok_or(DumpError::Stuck { doing })
    }
}

/// A described tree, held frozen. Dropping it aborts the dump: the tree runs on.
#[derive(Debug)]
pub struct Described {
    held: Held,
    hook: Hook,
    hooks: HookListener,
    images: ImageSet,
}

impl Described {
    /// The image files that can be decoded (all but page contents and other bulk).
    #[must_use]
    pub fn images(&self) -> &ImageSet {
        &self.images
    }

    /// Says that a commit is being attempted: from here on a loss of the daemon leaves the tree
    /// frozen, until [`Pending::adopt`] tells the hook how the commit ended. (A tree that is left
    /// running is resumed: it goes on here in any case.)
    ///
    /// # Errors
    /// The hook did not answer; the dump was aborted.
    pub async fn committing(mut self) -> Result<Committing, DumpError> {
        match self.hook.committing().await {
            Ok(()) => Ok(Committing {
                held: self.held,
                hook: self.hook,
                hooks: self.hooks,
            }),
            Err(source) => {
                let cause = self.held.hook_error(source);
                self.abort().await?;
                Err(cause)
            }
        }
    }

    /// Waits for the loss of the hook or of CRIU, which nobody expects: the tree is not held any
    /// more then. Safe to cancel. A commit that is not under way yet must not be begun.
    pub async fn lost(&mut self) -> DumpError {
        self.held.lost(&mut self.hook).await
    }

    /// Resumes the tree and waits until CRIU is gone.
    ///
    /// # Errors
    /// CRIU did not end in time.
    pub async fn abort(self) -> Result<(), DumpError> {
        let Self { mut held, hook, .. } = self;
        // A hook that cannot be told sees the end of the connection, which means the same.
        if let Err(error) = hook.abort().await {
            tracing::warn!(inner_pid = held.inner_pid, %error, "tell the hook to abort");
        }
        held.ended("abort").await.map(|_| ())
    }
}

/// A described tree whose commit is being attempted. Dropping it leaves the tree frozen.
#[derive(Debug)]
pub struct Committing {
    held: Held,
    hook: Hook,
    hooks: HookListener,
}

impl Committing {
    /// Waits for the loss of the hook or of CRIU, which nobody expects: the tree is not held any
    /// more then. Safe to cancel. A commit that is not under way yet must not be begun.
    pub async fn lost(&mut self) -> DumpError {
        self.held.lost(&mut self.hook).await
    }

    /// The commit was acknowledged: kills the tree (or resumes it, if so asked) and waits until
    /// CRIU is gone.
    ///
    /// # Errors
    /// CRIU did not confirm. The commit stands: the caller must see to it that the tree is dead.
    pub async fn release(self) -> Result<(), DumpError> {
        let Self {
            mut held,
            hook,
            hooks,
        } = self;
        // A hook that cannot be told is dead, and CRIU with it will have resumed the tree.
        let told = hook.release().await.is_ok();
        let status = held.ended("release").await?;
        drop(hooks);
        // Killed with the workload's PID namespace, if that has ended with the workload.
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        if told && (status.success() || killed && held.tree_is_gone().await) {
            Ok(())
        } else {
            Err(DumpError::Unfinished {
                summary: Box::new(held.summary()),
            })
        }
    }

    /// The commit surely did not happen: resumes the tree and waits until CRIU is gone.
    ///
    /// # Errors
    /// CRIU did not end in time.
    pub async fn abort(self) -> Result<(), DumpError> {
        let Self {
            mut held,
            hook,
            hooks,
        } = self;
        // A hook that cannot be told is dead, which means the same.
        if let Err(error) = hook.abort().await {
            tracing::warn!(inner_pid = held.inner_pid, %error, "tell the hook to abort");
        }
        held.ended("abort").await?;
        drop(hooks);
        Ok(())
    }
}
