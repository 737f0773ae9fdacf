//! A frozen tree whose daemon died while a commit was being attempted.

use std::{
    io,
    time::{Duration, Instant},
};

use lifeboat_sys::{peer, pidfd::Pidfd};

use super::{DumpError, LOG};
use crate::{
    WorkDir,
    command::EXIT_WITHIN,
    hook::{Hook, HookListener, Stage},
    log,
};

/// How long a hook may take to find a restarted daemon: a few of its pauses.
const ADOPT_WITHIN: Duration = Duration::from_secs(5);

/// A frozen tree whose daemon died while a commit was being attempted. Dropping it leaves the tree
/// frozen.
#[derive(Debug)]
pub struct Pending {
    hook: Hook,
    /// Kept until CRIU is gone, so that the hook finds a daemon if the verdict is lost.
    _hooks: HookListener,
    criu: Pidfd,
    work_dir: WorkDir,
}

impl Pending {
    /// Waits for the hook of the dump whose work directory this is. `None`: no hook came in time
    /// (it looks for a daemon at least once a second), so there is nothing frozen by it.
    ///
    /// # Errors
    /// The socket cannot be made, or the hook's CRIU cannot be found.
    pub async fn adopt(work_dir: &WorkDir) -> Result<Option<Self>, DumpError> {
        let hooks = HookListener::bind(work_dir).map_err(DumpError::Start)?;
        let hook = match tokio::time::timeout(ADOPT_WITHIN, hooks.accept()).await {
            Err(_) => return Ok(None),
            Ok(Err(source)) => {
                return Err(DumpError::Hook {
                    inner_pid: 0,
                    source,
                });
            }
            Ok(Ok(hook)) => hook,
        };
        if hook.stage != Stage::PostDump {
            let source = io::ErrorKind::InvalidData.into();
            return Err(DumpError::Hook {
                inner_pid: 0,
                source,
            });
        }
        let criu = criu_of(&hook).map_err(DumpError::Wait)?;
        Ok(Some(Self {
            hook,
            _hooks: hooks,
            criu,
            work_dir: work_dir.clone(),
        }))
    }

    /// The commit turned out to have happened: see [`super::Committing::release`].
    ///
    /// # Errors
    /// As there.
    pub async fn release(self) -> Result<(), DumpError> {
        let log_path = self.work_dir.here.join(LOG);
        self.verdict(Hook::release, "release").await?;
        // Its status goes to nobody: the log tells.
        let summary = log::summary(&log_path, "");
        if summary.failed {
            Err(DumpError::Unfinished {
                summary: Box::new(summary),
            })
        } else {
            Ok(())
        }
    }

    /// The commit turned out not to have happened: see [`super::Committing::abort`].
    ///
    /// # Errors
    /// As there.
    pub async fn abort(self) -> Result<(), DumpError> {
        self.verdict(Hook::abort, "abort").await
    }

    async fn verdict<F>(
        self,
        tell: impl FnOnce(Hook) -> F,
        doing: &'static str,
    ) -> Result<(), DumpError>
    where
        F: Future<Output = io::Result<()>>,
    {
        tell(self.hook).await.map_err(|source| DumpError::Hook {
            inner_pid: 0,
            source,
        })?;
        let deadline = Instant::now() + EXIT_WITHIN;
        let criu = self.criu;
        let ended = tokio::task::spawn_blocking(move || criu.wait_exit(deadline)).await;
        match ended
            .map_err(io::Error::other)
            .map(|ended| ended.map_err(io::Error::other))
        {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(DumpError::Stuck { doing }),
            Ok(Err(source)) | Err(source) => Err(DumpError::Wait(source)),
        }
    }
}

/// The process that runs the hook.
fn criu_of(hook: &Hook) -> io::Result<Pidfd> {
    let peer = peer::identify(hook.socket()).map_err(io::Error::other)?;
    let pid = peer.pid.ok_or(io::ErrorKind::NotFound)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
        .and_then(rustix::process::Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidData)?;
    Pidfd::open(parent).map_err(io::Error::other)
}
