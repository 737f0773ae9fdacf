//! What is asked of CRIU. Plain data: nothing here opens or checks anything.

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

/// Longest path of a work directory, in bytes: sockets are made in it, and a socket's address has
/// room for 107 bytes (unix(7)); the longest name that CRIU appends is `/streamer-capture.sock`.
pub const WORK_DIR_BYTES_MAX: usize = 107 - "/streamer-capture.sock".len();

/// A directory for the sockets, the log and the pidfile of one dump or one restore. It must exist,
/// be empty, belong to root and be private (mode 0700).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkDir {
    /// Its path as this process sees it.
    pub here: PathBuf,
    /// Its path as the workload's mount namespace sees it. At most [`WORK_DIR_BYTES_MAX`] bytes
    /// each.
    pub inside: PathBuf,
}

impl WorkDir {
    /// A directory that has the same path here and inside.
    #[must_use]
    pub fn same(path: impl Into<PathBuf>) -> Self {
        let here = path.into();
        Self {
            inside: here.clone(),
            here,
        }
    }
}

/// Namespaces that CRIU runs in, as descriptors of `/proc/PID/ns/*` (so that no reuse of a PID can
/// mislead). `None`: the caller's own.
///
/// The IPC namespace is not among them on purpose: CRIU run outside of it dumps SysV shared memory
/// as part of the tree, and run inside refuses it.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Mount namespace.
    pub mount: Option<OwnedFd>,
    /// PID namespace.
    pub pid: Option<OwnedFd>,
    /// Network namespace.
    pub net: Option<OwnedFd>,
    /// Host name namespace.
    pub uts: Option<OwnedFd>,
    /// IPC namespace. For restores into a hold whose IPC namespace holds nothing.
    pub ipc: Option<OwnedFd>,
    /// Cgroup namespace.
    pub cgroup: Option<OwnedFd>,
}

/// What happens to established TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpMode {
    /// They are closed at the restore; peers see a reset.
    #[default]
    Close,
    /// They are kept; the restoring machine must have the same address. Locked with nftables
    /// between dump and restore.
    Keep,
}

/// One dump.
#[derive(Debug)]
pub struct DumpRequest {
    /// PID of the tree's first process, in the PID namespace that CRIU runs in.
    pub inner_pid: u32,
    /// Where CRIU runs.
    pub namespaces: Namespaces,
    /// Where its sockets and its log are.
    pub work_dir: WorkDir,
    /// Resume the tree at the end instead of killing it.
    pub leave_running: bool,
    /// Established TCP connections.
    pub tcp: TcpMode,
    /// External resources, as `--external` takes them.
    pub external: Vec<String>,
    /// Largest unlinked file whose content goes into the images, in bytes.
    pub ghost_bytes_max: u64,
    /// Time until the tree must be described (all images written, tree held), from the start.
    /// After it the dump is aborted and the tree runs on.
    pub describe_within: Duration,
    /// More environment for CRIU (tests: `CRIU_FAULT`).
    pub environment: Vec<(String, String)>,
}

impl DumpRequest {
    /// A dump of the tree of `inner_pid` that ends in a kill, with defaults for the rest.
    #[must_use]
    pub fn new(inner_pid: u32, namespaces: Namespaces, work_dir: WorkDir) -> Self {
        Self {
            inner_pid,
            namespaces,
            work_dir,
            leave_running: false,
            tcp: TcpMode::Close,
            external: Vec::new(),
            ghost_bytes_max: GHOST_BYTES_MAX,
            describe_within: DESCRIBE_WITHIN,
            environment: Vec::new(),
        }
    }
}

/// Default of [`DumpRequest::ghost_bytes_max`]. CRIU's own default of 1 MiB refuses databases with
/// unlinked temporary files.
pub const GHOST_BYTES_MAX: u64 = 256 << 20;

/// Default of [`DumpRequest::describe_within`].
pub const DESCRIBE_WITHIN: Duration = Duration::from_secs(20);

/// A pipe of the new hold that takes the place of one in the image.
#[derive(Debug)]
pub struct InheritedPipe {
    /// The workload's end of the new pipe.
    pub fd: OwnedFd,
    /// Inode of the pipe in the image.
    pub inode: u64,
}

/// One restore.
#[derive(Debug)]
pub struct RestoreRequest {
    /// Where CRIU runs, and the tree with it.
    pub namespaces: Namespaces,
    /// Where its sockets, its log and its pidfile are.
    pub work_dir: WorkDir,
    /// Pipes that take the place of pipes in the image.
    pub inherit: Vec<InheritedPipe>,
    /// Established TCP connections: as at the dump.
    pub tcp: TcpMode,
    /// External resources, as `--external` takes them.
    pub external: Vec<String>,
    /// Time until the tree must be rebuilt (held before its first instruction), from the start.
    pub rebuild_within: Duration,
    /// More environment for CRIU (tests).
    pub environment: Vec<(String, String)>,
}

impl RestoreRequest {
    /// A restore with defaults.
    #[must_use]
    pub fn new(namespaces: Namespaces, work_dir: WorkDir) -> Self {
        Self {
            namespaces,
            work_dir,
            inherit: Vec::new(),
            tcp: TcpMode::Close,
            external: Vec::new(),
            rebuild_within: REBUILD_WITHIN,
            environment: Vec::new(),
        }
    }
}

/// Default of [`RestoreRequest::rebuild_within`]. It covers fetching all images and the memory that
/// CRIU loads itself.
pub const REBUILD_WITHIN: Duration = Duration::from_secs(120);
