//! One restore, from start to the running tree.
//!
//! ```text
//! start ─▶ rebuilt ─┬▶ resume: the tree runs
//!                   └▶ abort: it is killed
//! ```
//!
//! Until [`Rebuilt::resume`] every failure, and dropping any of the values, makes CRIU kill what it
//! has built. The moment between the two is CRIU's `post-restore` stage: every process exists, has
//! its mappings and has sent its userfaultfd; CRIU 4.2 still heeds a refusal there (it ignores one
//! at `pre-resume`).

use std::{
    fs, io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Bundle, ImageSource, LogSummary, RestoreRequest, WorkDir,
    command::{self, Criu, EXIT_WITHIN, Invocation, StartError},
    hook::{Hook, HookListener, Stage},
    lazy, log,
    serve::{self, ServeError},
    task::Task,
    wire::WireError,
};

/// Name of CRIU's log in the work directory.
const LOG: &str = "restore.log";

/// Name of the file in the work directory that CRIU writes the root's PID to.
const PIDFILE: &str = "restore.pid";

/// What the restored tree tells its page server, in the order of arrival. Processes fault before
/// [`LazyEvent::Finished`]: serve each at once.
#[derive(Debug)]
pub enum LazyEvent {
    /// A process (PID as in the image) registers its lazy mappings with this userfaultfd.
    Process {
        /// PID as in the image.
        pid: u32,
        /// Non-blocking, close-on-exec.
        uffd: OwnedFd,
    },
    /// A process that is a zombie: nothing to serve.
    Zombie {
        /// PID as in the image.
        pid: u32,
    },
    /// Every process was handed over, and the tree is about to run. The channel ends after this;
    /// a channel that ends without it means that the restore failed.
    Finished,
}

/// Why a restore failed. CRIU has killed what it built, unless said otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// CRIU was not started; nothing was built.
    #[error("start a restore")]
    Start(#[source] StartError),
    /// CRIU gave up.
    #[error("criu restore: {summary}")]
    Refused {
        /// What its log says.
        summary: Box<LogSummary>,
    },
    /// The images could not be given.
    #[error("restore failed")]
    Serve(#[source] ServeError),
    /// The userfaultfds could not be taken.
    #[error("take userfaultfds from criu")]
    Lazy(#[source] WireError),
    /// The hook could not be heard or told.
    #[error("talk to the hook that holds a restore")]
    Hook(#[source] io::Error),
    /// The tree was not rebuilt in time.
    #[error("restore aborted: not rebuilt within {within:?}")]
    Late {
        /// The time that it had.
        within: Duration,
    },
    /// CRIU was told to end but did not. Nothing may be assumed about the tree.
    #[error("criu has not ended {EXIT_WITHIN:?} after it was told to: {doing}")]
    Stuck {
        /// What it was told.
        doing: &'static str,
    },
    /// The tree runs but its PID is not known.
    #[error("read the pid of the restored tree from {path}", path = path.display())]
    Pidfile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// CRIU's end could not be waited for.
    #[error("wait for criu")]
    Wait(#[source] io::Error),
}

impl RestoreError {
    /// What CRIU said, if it was CRIU that refused.
    #[must_use]
    pub fn summary(&self) -> Option<&LogSummary> {
        match self {
            Self::Refused { summary } => Some(summary),
            _ => None,
        }
    }

    /// Whether processes of the tree may be there although the restore failed: the caller must
    /// kill whatever is in the hold's PID namespace.
    #[must_use]
    pub fn leaves_tree_uncertain(&self) -> bool {
        matches!(
            self,
            Self::Stuck { .. } | Self::Pidfile { .. } | Self::Wait(_)
        )
    }
}

/// Most [`LazyEvent`]s waiting to be taken.
pub const LAZY_EVENTS_MAX: usize = 64;

/// A restore under way. Dropping it fails the restore: CRIU kills what it built.
#[derive(Debug)]
pub struct Restore {
    criu: Criu,
    work_dir: WorkDir,
    hooks: HookListener,
    serve: Task<Result<(), ServeError>>,
    lazy: Task<Result<(), WireError>>,
    deadline: Instant,
    within: Duration,
}

impl Restore {
    /// Starts CRIU. The channel must be drained all the time. Must be called inside of a tokio
    /// runtime.
    ///
    /// # Errors
    /// Nothing was built.
    #[expect(clippy::unused_async, reason = "spawns tasks: a runtime must be there")]
    pub async fn start(
        bundle: &Bundle,
        request: RestoreRequest,
        source: Arc<dyn ImageSource>,
    ) -> Result<(Self, async_channel::Receiver<LazyEvent>), RestoreError> {
        let within = request.rebuild_within;
        let deadline = Instant::now() + within;
        let work_dir = request.work_dir.clone();
        let begin = || {
            command::check_work_dir(&work_dir)?;
            let hooks = HookListener::bind(&work_dir)?;
            let streamer = serve::bind(&work_dir)?;
            let lazy_pages = lazy::bind(&work_dir)?;
            let criu = start_criu(bundle, request)?;
            let (events, receiver) = async_channel::bounded(LAZY_EVENTS_MAX);
            let restore = Self {
                criu,
                work_dir,
                hooks,
                serve: Task::spawn(serve::serve(streamer, source)),
                lazy: Task::spawn(lazy::serve(lazy_pages, events)),
                deadline,
                within,
            };
            Ok((restore, receiver))
        };
        begin().map_err(RestoreError::Start)
    }

    /// Waits until the tree is rebuilt and held before its first instruction: the last moment at
    /// which CRIU can be told to give up. All userfaultfds were sent by then; eager restores
    /// install all pages here.
    ///
    /// # Errors
    /// The restore failed.
    pub async fn rebuilt(self) -> Result<Rebuilt, RestoreError> {
        let Self {
            mut criu,
            work_dir,
            hooks,
            mut serve,
            mut lazy,
            deadline,
            within,
        } = self;
        let deadline = tokio::time::Instant::from_std(deadline);
        let hook = first_hook(&mut criu, &hooks, &mut serve, &mut lazy);
        let cause = match tokio::time::timeout_at(deadline, hook).await {
            Ok(Ok(hook)) => {
                return Ok(Rebuilt {
                    criu,
                    work_dir,
                    hook,
                    serve,
                    lazy,
                });
            }
            Ok(Err(cause)) => cause,
            Err(_) => Some(RestoreError::Late { within }),
        };
        // CRIU gives up when what it talks to is gone.
        drop((hooks, serve, lazy));
        ended(&mut criu, "abort").await?;
        Err(cause.unwrap_or_else(|| refused(&criu, &work_dir)))
    }
}

/// CRIU's command line for a restore.
fn start_criu(bundle: &Bundle, request: RestoreRequest) -> Result<Criu, StartError> {
    let mut invocation = Invocation::new("restore", LOG, &request.work_dir, bundle);
    invocation
        .arg("--restore-detached")
        .arg("--lazy-pages")
        .arg("--pidfile")
        .arg(request.work_dir.inside.join(PIDFILE))
        .tcp(request.tcp)
        .externals(&request.external);
    for pipe in request.inherit {
        // CRIU keeps 32 bits of an inode.
        let inode = pipe.inode & u64::from(u32::MAX);
        let number = invocation.pass(pipe.fd)?;
        invocation
            .arg("--inherit-fd")
            .arg(format!("fd[{number}]:pipe:[{inode}]"));
    }
    for (name, value) in &request.environment {
        invocation.env(name, value);
    }
    invocation.start(bundle, request.namespaces)
}

/// Waits for the hook that says that everything was rebuilt. An error without a cause: CRIU has
/// ended by itself.
async fn first_hook(
    criu: &mut Criu,
    hooks: &HookListener,
    serve: &mut Task<Result<(), ServeError>>,
    lazy: &mut Task<Result<(), WireError>>,
) -> Result<Hook, Option<RestoreError>> {
    // One future for all rounds: cancelled, it would drop a hook's connection.
    let hook = hooks.accept();
    tokio::pin!(hook);
    let (mut serve_done, mut lazy_done) = (false, false);
    loop {
        tokio::select! {
            hook = &mut hook => {
                let hook = hook.map_err(|source| Some(RestoreError::Hook(source)))?;
                return if hook.stage == Stage::PostRestore {
                    Ok(hook)
                } else {
                    Err(Some(RestoreError::Hook(io::ErrorKind::InvalidData.into())))
                };
            }
            ended = criu.ended() => return Err(ended.err().map(RestoreError::Wait)),
            served = serve.result(), if !serve_done => match served {
                Ok(()) => serve_done = true,
                Err(source) => return Err(Some(RestoreError::Serve(source))),
            },
            handed = lazy.result(), if !lazy_done => match handed {
                Ok(()) => lazy_done = true,
                Err(source) => return Err(Some(RestoreError::Lazy(source))),
            },
        }
    }
}

async fn ended(
    criu: &mut Criu,
    doing: &'static str,
) -> Result<std::process::ExitStatus, RestoreError> {
    let ended = criu.ended_in_time().await.map_err(RestoreError::Wait)?;
    ended.ok_or(RestoreError::Stuck { doing })
}

fn refused(criu: &Criu, work_dir: &WorkDir) -> RestoreError {
    let summary = log::summary(&work_dir.here.join(LOG), &criu.output());
    RestoreError::Refused {
        summary: Box::new(summary),
    }
}

/// A rebuilt tree, held. Dropping it fails the restore.
#[derive(Debug)]
pub struct Rebuilt {
    criu: Criu,
    work_dir: WorkDir,
    hook: Hook,
    serve: Task<Result<(), ServeError>>,
    lazy: Task<Result<(), WireError>>,
}

impl Rebuilt {
    /// Lets the tree run.
    ///
    /// # Errors
    /// The restore failed after all.
    pub async fn resume(self) -> Result<Restored, RestoreError> {
        let Self {
            mut criu,
            work_dir,
            hook,
            serve,
            lazy,
        } = self;
        hook.release().await.map_err(RestoreError::Hook)?;
        let status = ended(&mut criu, "resume").await?;
        drop(serve);
        if !status.success() {
            return Err(refused(&criu, &work_dir));
        }
        // The last events may still be on their way to whoever serves pages.
        lazy.detach();
        let path = work_dir.here.join(PIDFILE);
        match fs::read_to_string(&path).map(|text| text.trim().parse()) {
            Ok(Ok(root_pid)) => Ok(Restored { root_pid }),
            Ok(Err(_)) => Err(RestoreError::Pidfile {
                path,
                source: io::ErrorKind::InvalidData.into(),
            }),
            Err(source) => Err(RestoreError::Pidfile { path, source }),
        }
    }

    /// Kills the tree.
    ///
    /// # Errors
    /// CRIU did not end in time.
    pub async fn abort(self) -> Result<(), RestoreError> {
        let Self { mut criu, hook, .. } = self;
        // A hook that cannot be told sees the end of the connection, which means the same.
        if let Err(error) = hook.abort().await {
            tracing::warn!(%error, "tell the hook to abort");
        }
        ended(&mut criu, "abort").await.map(|_| ())
    }
}

/// A restored tree that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// PID of its first process, in the PID namespace that CRIU ran in.
    pub root_pid: u32,
}
