//! What the daemon is about to do to frozen trees, on disk, so that its successor can finish it.
//!
//! An entry is written before a tree is frozen and removed after it was released. The successor
//! reads all entries at its start: a tree whose commit may have happened stays frozen until the
//! workload's head was read, and is then killed or resumed (`crate::evacuate::recover`).
//!
//! Entries are small JSON files, replaced atomically. A journal that cannot be written keeps a save
//! from starting: the workload runs on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Largest journal entry, in bytes.
const ENTRY_BYTES_MAX: u64 = 64 << 10;

/// One save under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The workload's name.
    pub workload: String,
    /// Identity of its hold.
    pub instance: String,
    /// The checkpoint that is being made.
    pub checkpoint: String,
    /// The work directory of CRIU.
    pub work_dir: PathBuf,
    /// PID of CRIU's root task in the daemon's PID namespace.
    pub pid: u32,
    /// Whether the tree is killed after the commit.
    pub evacuate: bool,
    /// Whether the commit was attempted.
    pub committing: bool,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("{what} journal entry {path}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The journal's folder.
#[derive(Clone, Debug)]
pub struct Journal {
    folder: PathBuf,
}

/// An entry on disk. Forgetting it leaves the entry for the successor.
#[derive(Debug)]
pub struct Recorded {
    path: PathBuf,
    entry: Entry,
}

impl Journal {
    /// The journal below `state_dir`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let folder = state_dir.join("journal");
        fs::create_dir_all(&folder).map_err(|source| JournalError::System {
            what: "make the folder of",
            path: folder.clone(),
            source,
        })?;
        Ok(Self { folder })
    }

    /// Writes an entry; it is durable on return.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn record(&self, entry: Entry) -> Result<Recorded, JournalError> {
        let path = self.folder.join(format!("{}.json", entry.workload));
        let recorded = Recorded { path, entry };
        recorded.write()?;
        Ok(recorded)
    }

    /// The entries that a predecessor left. An entry that cannot be read is reported and set aside.
    #[must_use]
    pub fn left_over(&self) -> Vec<Recorded> {
        let Ok(files) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for path in files.flatten().map(|file| file.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(entry) => found.push(Recorded { path, entry }),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "journal entry set aside");
                    drop(fs::rename(&path, path.with_extension("bad")));
                }
            }
        }
        found
    }
}

impl Recorded {
    /// What it says.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Records that the commit is being attempted.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn committing(&mut self) -> Result<(), JournalError> {
        self.entry.committing = true;
        self.write()
    }

    /// Removes the entry: nothing is left to be done.
    pub fn done(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a journal entry");
        }
    }

    fn write(&self) -> Result<(), JournalError> {
        let fail = |what| {
            move |source| JournalError::System {
                what,
                path: self.path.clone(),
                source,
            }
        };
        let temporary = self.path.with_extension("new");
        let text = serde_json::to_vec(&self.entry)
            .map_err(io::Error::from)
            .map_err(fail("write"))?;
        let file = fs::File::create(&temporary).map_err(fail("write"))?;
        io::Write::write_all(&mut &file, &text).map_err(fail("write"))?;
        file.sync_all().map_err(fail("sync"))?;
        fs::rename(&temporary, &self.path).map_err(fail("rename"))
    }
}

fn read(path: &Path) -> io::Result<Entry> {
    let size = fs::metadata(path)?.len();
    if size > ENTRY_BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes are too many")));
    }
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            workload: "redis".into(),
            instance: "1f".into(),
            checkpoint: "c".into(),
            work_dir: "/run/x".into(),
            pid: 7,
            evacuate: true,
            committing: false,
        }
    }

    #[test]
    fn a_successor_reads_what_was_recorded_last() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let mut recorded = journal.record(entry()).unwrap();
        recorded.committing().unwrap();
        let left = Journal::open(folder.path()).unwrap().left_over();
        assert_eq!(left.len(), 1);
        assert_eq!(
            left[0].entry(),
            &Entry {
                committing: true,
                ..entry()
            }
        );
        recorded.done();
        assert!(journal.left_over().is_empty());
    }

    #[test]
    fn a_damaged_entry_is_set_aside_and_does_not_stop_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.record(entry()).unwrap();
        fs::write(folder.path().join("journal/other.json"), b"{").unwrap();
        assert_eq!(journal.left_over().len(), 1);
        assert!(folder.path().join("journal/other.bad").exists());
    }
}
