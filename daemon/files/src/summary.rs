//! What a run did, and the limits it kept to.

use std::path::PathBuf;

/// Most entries of one archive.
pub(crate) const ENTRIES_MAX: u64 = 2_000_000;

/// Most bytes of file contents in one archive: 4 TiB.
const BYTES_MAX: u64 = 4 << 40;

/// Warnings that are kept as text; further ones are only counted.
const WARNINGS_MAX: usize = 100;

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most entries (files, directories, links) of one archive.
    pub entries_max: u64,
    /// Most bytes of file contents in one archive; holes do not count.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: ENTRIES_MAX,
            bytes_max: BYTES_MAX,
        }
    }
}

/// What was archived or extracted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files, without further names of the same file.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files that are in the archive.
    pub hard_links: u64,
    /// FIFOs.
    pub fifos: u64,
    /// Bytes of file contents, holes not counted.
    pub bytes: u64,
    /// Sockets that were left out. Archive only.
    pub sockets_skipped: u64,
    /// Things under a root that were removed because the archive does not have them. Extract only.
    pub removed: u64,
    /// Roots that did not exist at the freeze (archive), or that the archive does not have (extract).
    pub missing: Vec<PathBuf>,
    /// What could not be kept as it was, one sentence each; at most 100.
    pub warnings: Vec<String>,
    /// Number of further warnings.
    pub warnings_left_out: u64,
}

impl Summary {
    /// Number of entries of the archive.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.hard_links + self.fifos
    }

    pub(crate) fn warn(&mut self, text: String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(text);
        } else {
            self.warnings_left_out += 1;
        }
    }
}
