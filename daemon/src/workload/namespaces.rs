//! The namespaces of a workload, held open, so that a reused PID cannot lead anywhere else.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

use lifeboat_sys::pidfd::Pidfd;

/// Why namespaces cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The system refused.
    #[error("open the {kind} namespace of process {pid}")]
    Open {
        /// Which.
        kind: &'static str,
        /// The process.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process is gone.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: u32,
    },
}

/// Namespaces of a process.
#[derive(Debug)]
pub struct Namespaces {
    /// Mount namespace.
    pub mount: OwnedFd,
    /// PID namespace of its children.
    pub pid: OwnedFd,
    /// Network namespace.
    pub net: OwnedFd,
    /// Host name namespace.
    pub uts: OwnedFd,
}

impl Namespaces {
    /// The namespaces of process `pid`, which `process` refers to.
    ///
    /// # Errors
    /// When the process is gone or the system refuses.
    pub fn of(pid: u32, process: &Pidfd) -> Result<Self, NamespaceError> {
        let namespaces = Self {
            mount: open(pid, "mnt")?,
            pid: open(pid, "pid")?,
            net: open(pid, "net")?,
            uts: open(pid, "uts")?,
        };
        // The number cannot have been reused if the process is still there.
        if process.is_alive() {
            Ok(namespaces)
        } else {
            Err(NamespaceError::Gone { pid })
        }
    }

    /// The namespaces that CRIU is to run in; those that are the daemon's own are left out.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn for_criu(&self) -> Result<lifeboat_criu::Namespaces, NamespaceError> {
        Ok(lifeboat_criu::Namespaces {
            mount: other(&self.mount, "mnt")?,
            pid: other(&self.pid, "pid")?,
            net: other(&self.net, "net")?,
            uts: other(&self.uts, "uts")?,
            ..Default::default()
        })
    }

    /// The path under which another process opens one of these descriptors.
    #[must_use]
    pub fn path(descriptor: &OwnedFd) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            descriptor.as_raw_fd()
        ))
    }
}

fn open(pid: u32, kind: &'static str) -> Result<OwnedFd, NamespaceError> {
    File::open(format!("/proc/{pid}/ns/{kind}"))
        .map(OwnedFd::from)
        .map_err(|source| NamespaceError::Open { kind, pid, source })
}

/// A duplicate of the descriptor, unless it is this process's own namespace.
fn other(descriptor: &OwnedFd, kind: &'static str) -> Result<Option<OwnedFd>, NamespaceError> {
    let fail = |source| NamespaceError::Open {
        kind,
        pid: std::process::id(),
        source,
    };
    let own = fs::metadata(format!("/proc/self/ns/{kind}")).map_err(fail)?;
    let duplicate = descriptor.try_clone().map_err(fail)?;
    let file = File::from(duplicate);
    let theirs = file.metadata().map_err(fail)?;
    let same = own.ino() == theirs.ino() && own.dev() == theirs.dev();
    Ok((!same).then(|| OwnedFd::from(file)))
}
