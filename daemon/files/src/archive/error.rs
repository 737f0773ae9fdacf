//! Why an archive could not be made.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::roots::RootError;

/// Why the files could not be archived. The stream written so far is useless.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A preserved path is not allowed.
    #[error("check the preserved paths")]
    Root(#[source] RootError),
    /// A preserved path is a symbolic link.
    #[error("preserved path {path:?} is a symbolic link: preserve what it points to")]
    SymlinkRoot {
        /// The path.
        path: PathBuf,
    },
    /// Something could not be read.
    #[error("{what} {path:?}")]
    Read {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file went away, or became another one, between its listing and its reading.
    #[error("{path:?} vanished while it was archived")]
    Vanished {
        /// The file.
        path: PathBuf,
    },
    /// A file became shorter while it was read.
    #[error("{path:?} shrank from {expected} bytes to {found} while it was archived")]
    Shrank {
        /// The file.
        path: PathBuf,
        /// Size at the start, in bytes.
        expected: u64,
        /// Where it ended, in bytes.
        found: u64,
    },
    /// A device node.
    #[error("{path:?} is a device node, which cannot travel")]
    Device {
        /// The node.
        path: PathBuf,
    },
    /// A path that no system call takes.
    #[error("{path:?} is longer than 4095 bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// More entries than allowed.
    #[error("more than {entries_max} files and directories are under the preserved paths")]
    Entries {
        /// The limit.
        entries_max: u64,
    },
    /// More data than allowed.
    #[error("more than {bytes_max} bytes are in the files under the preserved paths")]
    Bytes {
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// The stream could not be written.
    #[error("write the archive at {path:?}")]
    Write {
        /// The entry that was being written.
        path: PathBuf,
        /// What the receiver said.
        #[source]
        source: io::Error,
    },
}

pub(super) fn read_error(what: &'static str, path: &Path, error: Errno) -> ArchiveError {
    let path = path.to_owned();
    match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR => ArchiveError::Vanished { path },
        error => ArchiveError::Read {
            what,
            path,
            source: error.into(),
        },
    }
}

pub(super) fn write_error(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Write {
        path: path.to_owned(),
        source,
    }
}
