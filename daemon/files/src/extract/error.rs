//! Why an archive could not be put back.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{read::FormatError, roots::RootError};

/// Why an archive could not be put back. Files that are complete by then stay.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// An allowed root is not acceptable.
    #[error("check the preserved paths")]
    Root(#[source] RootError),
    /// The stream is not a whole archive of ours.
    #[error("read the archive")]
    Format(#[source] FormatError),
    /// An entry lies in none of the allowed roots.
    #[error("{path:?} is in the archive but not under a preserved path")]
    Outside {
        /// The entry.
        path: PathBuf,
    },
    /// An entry comes twice.
    #[error("{path:?} is in the archive twice")]
    Twice {
        /// The entry.
        path: PathBuf,
    },
    /// An entry comes before its directory, or its directory is none.
    #[error("{path:?} is in the archive without the directory that it is in")]
    NoDirectory {
        /// The entry.
        path: PathBuf,
    },
    /// A hard link to something that the archive has not brought before.
    #[error("{path:?} is a hard link to {target:?}, which is not a file of the archive")]
    LinkTarget {
        /// The link.
        path: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
    /// A root is one kind of file here and another in the archive, or a symbolic link.
    #[error(
        "preserved path {path:?} is not the kind of file that the archive has for it, or is a \
         symbolic link"
    )]
    RootKind {
        /// The root.
        path: PathBuf,
    },
    /// Too many entries, or too large attributes.
    #[error("the archive exceeds the limit of {limit}")]
    Limit {
        /// Which limit.
        limit: &'static str,
    },
    /// Something could not be written.
    #[error("{what} {path:?}")]
    Write {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> ExtractError {
    ExtractError::Write {
        what,
        path: path.to_owned(),
        source,
    }
}
