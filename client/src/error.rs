//! Why something could not be had from the daemon, and what to do about it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use lifeboat_proto::id::IdError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon could not be reached over its Unix socket.
    #[error("{0}")]
    Socket(ConnectError),
    /// The daemon could not be reached over TCP.
    #[error("connect to the daemon at {url}; check that it runs there with that listener")]
    Http {
        /// Where it was tried.
        url: String,
        /// What the transport says.
        source: tonic::transport::Error,
    },
    /// A name or an identifier is not one.
    #[error(transparent)]
    Id(IdError),
    /// The daemon refused or failed.
    #[error("{}", text_of(.0))]
    Refused(tonic::Status),
    /// The daemon's answer lacks what the contract promises.
    #[error("the daemon's answer has no {0}; client and daemon may be of different versions")]
    Incomplete(&'static str),
}

/// Why a Unix socket could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing is there.
    #[error(
        "no daemon at {socket}: start one (`systemctl start lifeboatd`), or name another socket \
         with --socket or LIFEBOAT_SOCKET"
    )]
    Absent {
        /// Where it was tried.
        socket: PathBuf,
    },
    /// A socket is there, but nobody listens.
    #[error(
        "the daemon at {socket} does not run: start it (`systemctl start lifeboatd`), or name \
         another socket with --socket or LIFEBOAT_SOCKET"
    )]
    Refused {
        /// Where it was tried.
        socket: PathBuf,
    },
    /// The caller may not use it.
    #[error(
        "no permission to use the daemon's socket {socket}: {}",
        group.as_ref().map_or_else(
            || "run as its owner".to_owned(),
            |group| format!("join group {group} (`usermod -aG {group} USER`, then log in again)")
        )
    )]
    Denied {
        /// Where it was tried.
        socket: PathBuf,
        /// The group whose members may.
        group: Option<String>,
    },
    /// Something else.
    #[error("connect to the daemon at {socket}: {source}")]
    Other {
        /// Where it was tried.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl ClientError {
    /// Whether no daemon was reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Http { .. } => true,
            Self::Refused(status) => status.code() == tonic::Code::Unavailable,
            Self::Id(_) | Self::Incomplete(_) => false,
        }
    }

    /// Whether the deadline was the reason.
    #[must_use]
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == tonic::Code::DeadlineExceeded)
    }

    /// Whether the request itself was wrong.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Id(_))
    }
}

/// What to do about a socket that cannot be connected to.
#[must_use]
pub fn explain_connect(socket: &Path, error: &io::Error) -> ConnectError {
    let socket = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => ConnectError::Absent { socket },
        io::ErrorKind::ConnectionRefused => ConnectError::Refused { socket },
        io::ErrorKind::PermissionDenied => {
            let group = group_of(&socket);
            ConnectError::Denied { socket, group }
        }
        _ => ConnectError::Other {
            socket,
            source: duplicate(error),
        },
    }
}

fn duplicate(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Name of the group that owns the socket or, when even that may not be seen, its directory.
fn group_of(socket: &Path) -> Option<String> {
    let metadata = fs::metadata(socket)
        .or_else(|_| fs::metadata(socket.parent().unwrap_or(socket)))
        .ok()?;
    let gid = metadata.gid().to_string();
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid && gid != "0").then(|| name.to_owned())
    })
}

/// What the daemon says, in words; the code only where there are none.
fn text_of(status: &tonic::Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    }
}
