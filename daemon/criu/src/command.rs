//! CRIU's command line, and the process.
//!
//! CRIU is started through nsenter(1), which is given namespaces as descriptors of this process.
//! Its standard output and error are collected up to [`OUTPUT_BYTES_MAX`], the rest is read and
//! thrown away. It is never killed: a session that is dropped only closes what CRIU talks to.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lifeboat_sys::spawn::{ChildSetup, FIRST_FD, SpawnError};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use crate::{Bundle, Namespaces, TcpMode, WorkDir, protocol, request::WORK_DIR_BYTES_MAX};

/// How long CRIU may take to end once it was told how. It waits for every process of the tree to
/// be gone, and the kernel needs a while to free hundreds of gigabytes.
pub(crate) const EXIT_WITHIN: Duration = Duration::from_secs(60);

/// Most bytes kept of what CRIU says outside of its log.
const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// What may be found by name by CRIU and nsenter.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Verbosity: errors and warnings. More slows a freeze down.
const VERBOSITY: &str = "-v2";

/// Why CRIU could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A path of the work directory does not fit into a socket's address, or is not absolute.
    #[error(
        "work directory {path:?} is not an absolute path of at most {WORK_DIR_BYTES_MAX} bytes"
    )]
    WorkDir {
        /// The path.
        path: std::path::PathBuf,
    },
    /// A socket in the work directory could not be made.
    #[error("make {name} in the work directory {path}", path = path.display())]
    Socket {
        /// Name of the socket.
        name: &'static str,
        /// The work directory.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A descriptor could not be given to CRIU.
    #[error("give criu a descriptor")]
    Descriptor(#[source] SpawnError),
    /// The process could not be started.
    #[error("start criu through nsenter")]
    Spawn(#[source] io::Error),
}

/// A running CRIU.
#[derive(Debug)]
pub(crate) struct Criu {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    /// nsenter opens them by number in `/proc`.
    namespaces: Namespaces,
}

/// How to start CRIU.
#[derive(Debug)]
pub(crate) struct Invocation {
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    setup: ChildSetup,
    next_fd: RawFd,
    shielded: bool,
    preload: OsString,
}

impl Invocation {
    /// What dumps and restores have in common.
    pub(crate) fn new(command: &str, log: &str, work_dir: &WorkDir, bundle: &Bundle) -> Self {
        let inside = work_dir.inside.as_os_str();
        let hook_socket = work_dir.inside.join(crate::hook::SOCKET);
        let mut invocation = Self {
            arguments: Vec::new(),
            environment: vec![
                ("PATH".into(), PATH.into()),
                (protocol::ENV_HOOK_SOCKET.into(), hook_socket.into()),
            ],
            setup: ChildSetup::new(),
            next_fd: FIRST_FD,
            shielded: false,
            preload: OsString::new(),
        };
        invocation
            .arg(command)
            .arg("--stream")
            .arg("--images-dir")
            .arg(inside)
            .arg("--work-dir")
            .arg(inside)
            .arg("--log-file")
            .arg(log)
            .arg(VERBOSITY)
            .arg("--action-script")
            .arg(&bundle.hook)
            .arg("--file-locks")
            .arg("--link-remap")
            .arg("--ext-unix-sk")
            .arg("--skip-in-flight")
            .arg("--manage-cgroups=ignore")
            .arg("--cpu-cap=fpu,ins");
        invocation
    }

    pub(crate) fn arg(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn env(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(crate) fn tcp(&mut self, mode: TcpMode) -> &mut Self {
        match mode {
            TcpMode::Close => self.arg("--tcp-close"),
            TcpMode::Keep => self
                .arg("--tcp-established")
                .arg("--network-lock")
                .arg("nftables"),
        }
    }

    pub(crate) fn externals(&mut self, externals: &[String]) -> &mut Self {
        for external in externals {
            self.arg("--external").arg(external);
        }
        self
    }

    /// Gives a descriptor to CRIU; returns its number there.
    pub(crate) fn pass(&mut self, fd: OwnedFd) -> Result<RawFd, StartError> {
        let number = self.next_fd;
        self.setup
            .pass_fd(fd, number)
            .map_err(StartError::Descriptor)?;
        self.next_fd += 1;
        Ok(number)
    }

    /// Preloads the page filter, and ignores the signals that service managers send to groups.
    pub(crate) fn filtered(&mut self, bundle: &Bundle, socket: OwnedFd) -> Result<(), StartError> {
        let number = self.pass(socket)?;
        self.env(protocol::ENV_FILTER_FD, number.to_string());
        self.preload = bundle.preload.clone().into();
        self.shielded = true;
        Ok(())
    }

    /// Starts CRIU.
    pub(crate) fn start(
        mut self,
        bundle: &Bundle,
        namespaces: Namespaces,
    ) -> Result<Criu, StartError> {
        let mut command = if self.shielded {
            let mut command = Command::new(&bundle.hook);
            command.arg("shield").arg("nsenter");
            command
        } else {
            Command::new("nsenter")
        };
        command.args(nsenter_arguments(&namespaces)).arg("--");
        command.arg(&bundle.hook).arg("criu").arg(&self.preload);
        command.arg(&bundle.criu).args(&self.arguments);
        command.env_clear().envs(self.environment.drain(..));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.setup.default_signals();
        self.setup.session_leader();
        self.setup.apply(command.as_std_mut());
        tracing::debug!(command = ?command.as_std(), "start criu");

        let mut child = command.spawn().map_err(StartError::Spawn)?;
        let output = Arc::new(Mutex::new(Vec::new()));
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(collect(stdout, Arc::clone(&output)));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(collect(stderr, Arc::clone(&output)));
        }
        Ok(Criu {
            child,
            output,
            namespaces,
        })
    }
}

fn nsenter_arguments(namespaces: &Namespaces) -> Vec<OsString> {
    let pid = std::process::id();
    let given = [
        ("mount", &namespaces.mount),
        ("pid", &namespaces.pid),
        ("net", &namespaces.net),
        ("uts", &namespaces.uts),
        ("ipc", &namespaces.ipc),
        ("cgroup", &namespaces.cgroup),
    ];
    given
        .into_iter()
        .filter_map(|(kind, fd)| {
            let fd = fd.as_ref()?.as_raw_fd();
            Some(format!("--{kind}=/proc/{pid}/fd/{fd}").into())
        })
        .collect()
}

/// Reads to the end, keeps the beginning.
async fn collect(mut from: impl AsyncRead + Unpin, into: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}

impl Criu {
    /// Waits for its end. Safe to cancel.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits for its end for at most [`EXIT_WITHIN`]; `None`: it is still there.
    pub(crate) async fn ended_in_time(&mut self) -> io::Result<Option<ExitStatus>> {
        match tokio::time::timeout(EXIT_WITHIN, self.ended()).await {
            Ok(status) => status.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The PID namespace that it runs in; `None`: the caller's own.
    pub(crate) fn pid_namespace(&self) -> io::Result<Option<OwnedFd>> {
        self.namespaces
            .pid
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
    }

    /// What it (or nsenter) said outside of its log.
    pub(crate) fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }
}

/// Whether sockets in the directory can have addresses.
pub(crate) fn check_work_dir(work_dir: &WorkDir) -> Result<(), StartError> {
    for path in [&work_dir.here, &work_dir.inside] {
        if !path.is_absolute() || path.as_os_str().len() > WORK_DIR_BYTES_MAX {
            return Err(StartError::WorkDir { path: path.clone() });
        }
    }
    Ok(())
}
