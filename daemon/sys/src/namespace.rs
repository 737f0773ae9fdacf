//! Namespaces of processes, numbers of processes in them, and process trees (namespaces(7)).

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use rustix::{
    process::Pid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::pidfd::Pidfd;

/// Most processes in one tree.
pub const TREE_MAX: usize = 1 << 16;

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamespaceKind {
    /// Mounts.
    Mount,
    /// Process numbers.
    Pid,
    /// System V and POSIX message queues, shared memory, semaphores.
    Ipc,
    /// Host name.
    Uts,
    /// Network.
    Net,
    /// Users and capabilities.
    User,
    /// Roots of control groups.
    Cgroup,
    /// Offsets of the monotonic clocks.
    Time,
}

/// Which namespace it is: equal if and only if it is the same, as long as one of the two is held
/// open or in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    /// Device of the file that stands for it.
    pub device: u64,
    /// Number of that file.
    pub inode: u64,
}

/// A namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    kind: NamespaceKind,
    id: NamespaceId,
    fd: OwnedFd,
}

/// Why a namespace or a tree could not be told.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The process has ended.
    #[error("process {pid} is gone")]
    Gone {
        /// Number of the process.
        pid: i32,
    },
    /// A file under `/proc` could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// The kernel's answer; EACCES or EPERM: no ptrace access.
        source: io::Error,
    },
    /// A file under `/proc` has no such field.
    #[error("{path} has no usable {field}")]
    Field {
        /// The file.
        path: String,
        /// The field.
        field: &'static str,
    },
    /// More than [`TREE_MAX`] processes.
    #[error("the tree of process {pid} has more than {TREE_MAX} processes")]
    TooMany {
        /// Number of the root.
        pid: i32,
    },
    /// setns(2) failed.
    #[error("make children in the pid namespace {inode}")]
    Enter {
        /// Number of the namespace.
        inode: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The thread could not return to its own namespace; it must not start other children.
    #[error("return to the own pid namespace")]
    Return {
        /// The kernel's answer.
        source: io::Error,
    },
}

impl NamespaceError {
    /// The process has ended.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

impl NamespaceKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Mount,
        Self::Pid,
        Self::Ipc,
        Self::Uts,
        Self::Net,
        Self::User,
        Self::Cgroup,
        Self::Time,
    ];

    /// Its file in `/proc/PID/ns`.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Net => "net",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// Its `CLONE_NEW…` flag, for setns(2) and unshare(2).
    #[must_use]
    pub const fn clone_flag(self) -> libc::c_int {
        match self {
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Net => libc::CLONE_NEWNET,
            Self::User => libc::CLONE_NEWUSER,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => libc::CLONE_NEWTIME,
        }
    }
}

impl Namespace {
    /// Opens the namespace that `process` is in.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn of(process: &Pidfd, kind: NamespaceKind) -> Result<Self, NamespaceError> {
        let pid = number(process);
        let path = format!("/proc/{pid}/ns/{}", kind.file_name());
        let opened = Self::open(&path, kind).map_err(|source| read_error(pid, path, source))?;
        // Opened by number: right if the process is still there.
        if process.is_alive() {
            Ok(opened)
        } else {
            Err(NamespaceError::Gone { pid })
        }
    }

    /// Opens the namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`NamespaceError::Read`].
    pub fn of_this_thread(kind: NamespaceKind) -> Result<Self, NamespaceError> {
        let path = format!("/proc/thread-self/ns/{}", kind.file_name());
        Self::open(&path, kind).map_err(|source| NamespaceError::Read { path, source })
    }

    fn open(path: &str, kind: NamespaceKind) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let id = NamespaceId {
            device: meta.dev(),
            inode: meta.ino(),
        };
        Ok(Self {
            kind,
            id,
            fd: file.into(),
        })
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> NamespaceKind {
        self.kind
    }

    /// Which one it is.
    #[must_use]
    pub const fn id(&self) -> NamespaceId {
        self.id
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.fd
    }
}

/// Runs `start` with the calling thread set up so that children it starts are in `namespace`, a
/// pid namespace (the same one or a descendant of this process's). The thread itself stays where
/// it is. `start` must not start threads.
///
/// # Errors
/// [`NamespaceError::Enter`] before `start` runs; [`NamespaceError::Return`] after it: its result
/// is lost then, and the thread must end.
pub fn with_children_in<T>(
    namespace: &Namespace,
    start: impl FnOnce() -> T,
) -> Result<T, NamespaceError> {
    let home = Namespace::of_this_thread(NamespaceKind::Pid)?;
    let kind = Some(LinkNameSpaceType::ProcessID);
    move_into_link_name_space(namespace.as_fd(), kind).map_err(|errno| NamespaceError::Enter {
        inode: namespace.id.inode,
        source: errno.into(),
    })?;
    let result = start();
    move_into_link_name_space(home.as_fd(), kind).map_err(|errno| NamespaceError::Return {
        source: errno.into(),
    })?;
    Ok(result)
}

/// Numbers of a process in the pid namespace of this process and in each one below it down to the
/// process's own, which is the last.
///
/// # Errors
/// [`NamespaceError`].
pub fn pids_of(process: &Pidfd) -> Result<Vec<i32>, NamespaceError> {
    const FIELD: &str = "NSpid";
    let pid = number(process);
    let path = format!("/proc/{pid}/status");
    let status =
        fs::read_to_string(&path).map_err(|source| read_error(pid, path.clone(), source))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(FIELD)?.strip_prefix(':'));
    let pids: Option<Vec<i32>> = line.map(|line| {
        line.split_ascii_whitespace()
            .map_while(|pid| pid.parse().ok())
            .collect()
    });
    match pids {
        Some(pids) if !pids.is_empty() && process.is_alive() => Ok(pids),
        _ if !process.is_alive() => Err(NamespaceError::Gone { pid }),
        _ => Err(NamespaceError::Field { path, field: FIELD }),
    }
}

/// Number of a process in its own pid namespace.
///
/// # Errors
/// [`NamespaceError`].
pub fn innermost_pid(process: &Pidfd) -> Result<i32, NamespaceError> {
    let pids = pids_of(process)?;
    Ok(*pids.last().expect("pids_of returns at least one number"))
}

/// A process of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeProcess {
    /// Its number.
    pub pid: Pid,
    /// That of its parent; `None` for the root.
    pub parent: Option<Pid>,
}

/// The processes below `root`, itself first, parents before children. Zombies are among them.
///
/// Of a tree that runs this is no snapshot: processes can come and go meanwhile, and one whose
/// parent ends moves out of the tree or below its subreaper. Of a frozen tree it is exact.
///
/// # Errors
/// [`NamespaceError`].
pub fn process_tree(root: &Pidfd) -> Result<Vec<TreeProcess>, NamespaceError> {
    let mut tree = vec![TreeProcess {
        pid: root.pid(),
        parent: None,
    }];
    let mut seen = std::collections::HashSet::from([root.pid()]);
    let mut next = 0;
    while let Some(process) = tree.get(next).copied() {
        next += 1;
        for pid in children_of(process.pid)? {
            // Numbers may be reused while we look.
            if !seen.insert(pid) {
                continue;
            }
            if tree.len() == TREE_MAX {
                return Err(NamespaceError::TooMany { pid: number(root) });
            }
            tree.push(TreeProcess {
                pid,
                parent: Some(process.pid),
            });
        }
    }
    if root.is_alive() {
        Ok(tree)
    } else {
        Err(NamespaceError::Gone { pid: number(root) })
    }
}

/// Children of all threads of a process. One that is gone has none.
fn children_of(pid: Pid) -> Result<Vec<Pid>, NamespaceError> {
    let path = format!("/proc/{}/task", pid.as_raw_nonzero());
    let threads = match fs::read_dir(&path) {
        Ok(threads) => threads,
        Err(error) if is_no_process(&error) => return Ok(Vec::new()),
        Err(source) => return Err(NamespaceError::Read { path, source }),
    };
    let mut children = Vec::new();
    for thread in threads {
        let path = match thread {
            Ok(thread) => thread.path().join("children"),
            Err(error) if is_no_process(&error) => continue,
            Err(source) => return Err(NamespaceError::Read { path, source }),
        };
        match fs::read_to_string(&path) {
            Ok(list) => {
                let pids = list
                    .split_ascii_whitespace()
                    .filter_map(|pid| pid.parse().ok());
                children.extend(pids.filter_map(Pid::from_raw));
            }
            Err(error) if is_no_process(&error) => {}
            Err(source) => {
                return Err(NamespaceError::Read {
                    path: path.display().to_string(),
                    source,
                });
            }
        }
    }
    Ok(children)
}

fn is_no_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn read_error(pid: i32, path: String, source: io::Error) -> NamespaceError {
    if is_no_process(&source) {
        NamespaceError::Gone { pid }
    } else {
        NamespaceError::Read { path, source }
    }
}

fn number(process: &Pidfd) -> i32 {
    process.pid().as_raw_nonzero().get()
}
