//! What a load has seen and done, in a file, so that another server can go on with it when this
//! one's process is killed ([`crate::PageServer::resume`]).
//!
//! # What is written, and why that is enough
//!
//! Every change of a [`Missing`](crate::missing::Missing) is one record, written under the lock of
//! what it changes. What an installer put in a moment before it was killed may lack its record:
//! then the page is there, the kernel says EEXIST to the successor, and nothing is overwritten.
//!
//! Events are different. The kernel forgets an event when it is read, and lets the program go on. A
//! server that is killed between reading an event and writing its record has taken knowledge to its
//! grave: of a removal, nothing in `/proc` tells; of a fork, the child's only descriptor is closed.
//! So a mark is set before events are read, and taken away when they are recorded and the children's
//! descriptors are with the guard ([`Window`]). A journal that is found with the mark set is not
//! resumed: the processes are killed, at once, by whoever guards them.
//!
//! A journal that cannot be written to, or has become too long, keeps the mark for good. The load
//! goes on; it just cannot be taken over.
//!
//! The file needs no `fsync`: it must survive the death of a process, not of the machine, with which
//! the loaded processes die too. Its layout is a matter between a daemon and its successor, except
//! for the mark, which guards read ([`lifeboat_proto::LOAD_JOURNAL_HEADER`]).

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use lifeboat_proto::{
    LOAD_JOURNAL_HEADER,
    units::{PageIndex, PageRun},
};
use rustix::fs::{FlockOperation, flock};

use crate::process::ProcessId;

/// Most bytes of a journal: two million changes. It lies in memory, where `/run` does.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Bytes of a record. A power of two: a write that is cut short by a signal ends at a border of
/// pages, and so at a border of records.
const RECORD_BYTES: usize = 32;

/// Bytes before the first record.
const HEADER_BYTES: usize = 4096;

/// Where the header says how long what follows is: what the load is about.
const ABOUT_OFFSET: usize = RECORD_BYTES;

/// Most bytes that say what a load is about.
pub const ABOUT_BYTES_MAX: usize = HEADER_BYTES - ABOUT_OFFSET - 4;

/// Where the mark is.
const MARK_OFFSET: u64 = LOAD_JOURNAL_HEADER.len() as u64;

/// Answers in one record.
const ANSWERS: usize = 64;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A process that was restored is served.
    Served,
    /// All that was restored is served and registered.
    AllAdded,
    /// Captured pages have their content.
    Installed(PageRun),
    /// See [`Missing`](crate::missing::Missing).
    Removed(PageRun),
    Unmapped(PageRun),
    Moved(PageRun, PageIndex),
    AtRest,
    Absent(PageRun),
    Grown(PageIndex),
    /// The number of the child, and what the kernel said of its mappings, in the order of asking.
    Forked(u32, Vec<bool>),
    /// It is gone.
    Gone,
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// For the mark. It has the lock that tells others that the load is somebody's.
    file: File,
    append: File,
    bytes: AtomicU64,
    void: AtomicBool,
}

/// While it lives, and for ever if it is not [closed](Window::close), the journal cannot be resumed.
#[derive(Debug)]
#[must_use = "dropping it does not close it"]
pub(crate) struct Window<'journal>(Option<&'journal Journal>);

/// Where the changes of one process are written, if anywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Option<(Arc<Journal>, ProcessId)>);

impl Log {
    pub(crate) fn new(journal: Option<&Arc<Journal>>, process: ProcessId) -> Self {
        Self(journal.map(|journal| (Arc::clone(journal), process)))
    }

    /// The same for another process.
    pub(crate) fn of(&self, process: ProcessId) -> Self {
        Self::new(self.0.as_ref().map(|(journal, _)| journal), process)
    }

    pub(crate) fn note(&self, change: &Change) {
        if let Some((journal, process)) = &self.0 {
            journal.note(*process, change);
        }
    }
}

/// What a journal says.
#[derive(Debug)]
pub struct History {
    /// What [`Journal::create`] was told.
    pub about: Vec<u8>,
    pub(crate) changes: Vec<(ProcessId, Change)>,
}

/// Why a load cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("{what} the journal of a load {path}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("the load of journal {path} is another daemon's")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not a journal.
    #[error("{path} is not the journal of a load")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The mark is set.
    #[error(
        "the daemon died while it was being told of changes of memory, or could not record them: \
         what is missing cannot be proved"
    )]
    Unproved,
}

impl Journal {
    /// A new journal at `path`, instead of whatever is there. `about` is for the successor, at most
    /// [`ABOUT_BYTES_MAX`].
    ///
    /// # Errors
    /// What the system says; `about` is too long.
    pub fn create(path: &Path, about: &[u8]) -> io::Result<Self> {
        let length = u32::try_from(about.len()).unwrap_or(u32::MAX);
        if about.len() > ABOUT_BYTES_MAX {
            let text = format!("{length} bytes about a load are more than {ABOUT_BYTES_MAX}");
            return Err(io::Error::other(text));
        }
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut options = File::options();
        options.write(true).read(true).create_new(true).mode(0o600);
        let file = options.open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut header = [0; HEADER_BYTES];
        header[..LOAD_JOURNAL_HEADER.len()].copy_from_slice(LOAD_JOURNAL_HEADER);
        let (of_length, of_about) = header[ABOUT_OFFSET..].split_at_mut(4);
        of_length.copy_from_slice(&length.to_le_bytes());
        of_about[..about.len()].copy_from_slice(about);
        file.write_all_at(&header, 0)?;
        Self::over(path, file, HEADER_BYTES as u64)
    }

    fn over(path: &Path, file: File, bytes: u64) -> io::Result<Self> {
        Ok(Self {
            append: File::options().append(true).open(path)?,
            path: path.to_owned(),
            file,
            bytes: AtomicU64::new(bytes),
            void: AtomicBool::new(false),
        })
    }

    /// The journal that a predecessor left at `path`, to be gone on with, and what it says.
    ///
    /// # Errors
    /// When it cannot be read, or says that it must not be relied on.
    pub fn resume(path: &Path) -> Result<(Self, History), HistoryError> {
        let system = |what| {
            move |source: io::Error| HistoryError::System {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let mut options = File::options();
        let file = options.read(true).write(true).open(path);
        let file = file.map_err(system("open"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            HistoryError::InUse {
                path: path.to_owned(),
            }
        })?;
        let mut bytes = Vec::new();
        let limit = JOURNAL_BYTES_MAX;
        let read = (&file).take(limit).read_to_end(&mut bytes);
        read.map_err(system("read"))?;
        let malformed = || HistoryError::Malformed {
            path: path.to_owned(),
        };
        let (header, records) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(malformed)?;
        let mark = header
            .strip_prefix(LOAD_JOURNAL_HEADER)
            .ok_or_else(malformed)?;
        if mark.first() != Some(&0) {
            return Err(HistoryError::Unproved);
        }
        let about = about(header).ok_or_else(malformed)?;
        let (records, _cut_short) = records.as_chunks::<RECORD_BYTES>();
        let changes = decode(records).ok_or_else(malformed)?;
        let whole = (HEADER_BYTES + records.len() * RECORD_BYTES) as u64;
        file.set_len(whole).map_err(system("cut"))?;
        let journal = Self::over(path, file, whole).map_err(system("open"))?;
        Ok((journal, History { about, changes }))
    }

    /// A descriptor by which a guard can read the mark, and nothing be written.
    ///
    /// # Errors
    /// What the system says.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        File::open(&self.path).map(OwnedFd::from)
    }

    /// Removes the file: there is nothing left to be taken over.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "no journal to remove");
        }
    }

    /// Sets the mark.
    fn mark(&self, mark: u8) -> io::Result<()> {
        self.file.write_all_at(&[mark], MARK_OFFSET)
    }

    /// Events are about to be read.
    ///
    /// # Errors
    /// The mark cannot be set: nothing may be read.
    pub(crate) fn open_window(journal: Option<&Arc<Self>>) -> io::Result<Window<'_>> {
        let journal = journal.map(Arc::as_ref);
        if let Some(journal) = journal
            && !journal.void.load(Relaxed)
        {
            journal.mark(1)?;
        }
        Ok(Window(journal))
    }

    /// Writes a change down. When that is not possible, the journal is void.
    pub(crate) fn note(&self, process: ProcessId, change: &Change) {
        if self.void.load(Relaxed) {
            return;
        }
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        let written = if encode(process, change, &mut bytes) {
            let length = bytes.len() as u64;
            let before = self.bytes.fetch_add(length, Relaxed);
            if before + length > JOURNAL_BYTES_MAX {
                Err(io::Error::other("it is too long"))
            } else {
                (&self.append).write_all(&bytes)
            }
        } else {
            Err(io::Error::other("a change has no place in it"))
        };
        if let Err(error) = written {
            self.void.store(true, Relaxed);
            let marked = self.mark(1).is_ok();
            let path = self.path.display();
            tracing::warn!(%path, %error, marked, "this load cannot be taken over any more");
            if !marked {
                self.remove();
            }
        }
    }
}

impl Window<'_> {
    /// Everything that was read is recorded.
    ///
    /// # Errors
    /// The mark stays.
    pub(crate) fn close(self) -> io::Result<()> {
        match self.0 {
            Some(journal) if !journal.void.load(Relaxed) => journal.mark(0),
            _ => Ok(()),
        }
    }
}

fn encode(process: ProcessId, change: &Change, bytes: &mut Vec<u8>) -> bool {
    let mut record = |process: ProcessId, kind: u32, extra: u32, a: u64, b: u64| {
        for word in [kind, process.forked, process.pid, extra] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for word in [a, b] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    };
    let mut range = |kind, run: PageRun| record(process, kind, 0, run.start.0, run.pages);
    match change {
        Change::Installed(run) => range(1, *run),
        Change::Removed(run) => range(2, *run),
        Change::Unmapped(run) => range(3, *run),
        Change::Absent(run) => range(4, *run),
        Change::Moved(from, to) => {
            let Ok(pages) = u32::try_from(from.pages) else {
                return false;
            };
            record(process, 5, pages, from.start.0, to.0);
        }
        Change::AtRest => record(process, 6, 0, 0, 0),
        Change::Grown(page) => record(process, 7, 0, page.0, 0),
        Change::Served => record(process, 8, 0, 0, 0),
        Change::AllAdded => record(process, 9, 0, 0, 0),
        Change::Gone => record(process, 10, 0, 0, 0),
        Change::Forked(child, answers) => {
            record(process, 11, *child, answers.len() as u64, 0);
            for answers in answers.chunks(ANSWERS) {
                let bit = |(at, answer): (usize, &bool)| u64::from(*answer) << at;
                let bits = answers.iter().enumerate().map(bit).sum();
                record(process, 12, 0, bits, 0);
            }
        }
    }
    true
}

fn about(header: &[u8; HEADER_BYTES]) -> Option<Vec<u8>> {
    let (length, about) = header[ABOUT_OFFSET..].split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    about.get(..length).map(<[u8]>::to_vec)
}

fn decode(records: &[[u8; RECORD_BYTES]]) -> Option<Vec<(ProcessId, Change)>> {
    let mut records = records.iter().map(|record| {
        let (words, rest) = record.split_at(16);
        let (words, _) = words.as_chunks::<4>();
        let (rest, _) = rest.as_chunks::<8>();
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let id = ProcessId {
            pid: word(2),
            forked: word(1),
        };
        let (a, b) = (u64::from_le_bytes(rest[0]), u64::from_le_bytes(rest[1]));
        (id, word(0), word(3), a, b)
    });
    let mut changes = Vec::new();
    while let Some((id, kind, extra, a, b)) = records.next() {
        let run = PageRun::new(PageIndex(a), b);
        let change = match kind {
            1 => Change::Installed(run),
            2 => Change::Removed(run),
            3 => Change::Unmapped(run),
            4 => Change::Absent(run),
            5 => Change::Moved(PageRun::new(PageIndex(a), extra.into()), PageIndex(b)),
            6 => Change::AtRest,
            7 => Change::Grown(PageIndex(a)),
            8 => Change::Served,
            9 => Change::AllAdded,
            10 => Change::Gone,
            11 => {
                let count = usize::try_from(a).ok()?;
                let mut answers = Vec::new();
                while answers.len() < count {
                    let (_, 12, _, bits, _) = records.next()? else {
                        return None;
                    };
                    let here = ANSWERS.min(count - answers.len());
                    answers.extend((0..here).map(|at| bits >> at & 1 == 1));
                }
                Change::Forked(extra, answers)
            }
            _ => return None,
        };
        changes.push((id, change));
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = Change> {
        let run = || {
            (any::<u32>(), any::<u32>())
                .prop_map(|(start, pages)| PageRun::new(PageIndex(start.into()), pages.into()))
        };
        prop_oneof![
            run().prop_map(Change::Installed),
            run().prop_map(Change::Removed),
            run().prop_map(Change::Unmapped),
            run().prop_map(Change::Absent),
            (run(), any::<u32>()).prop_map(|(run, to)| Change::Moved(run, PageIndex(to.into()))),
            Just(Change::AtRest),
            any::<u32>().prop_map(|page| Change::Grown(PageIndex(page.into()))),
            Just(Change::Served),
            Just(Change::AllAdded),
            Just(Change::Gone),
            (
                any::<u32>(),
                proptest::collection::vec(any::<bool>(), 0..300)
            )
                .prop_map(|(child, answers)| Change::Forked(child, answers)),
        ]
    }

    proptest! {
        #[test]
        fn what_was_noted_is_found_by_the_successor(
            changes in proptest::collection::vec((any::<u32>(), any::<u32>(), change()), 0..40),
            torn in 0_usize..32,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("load");
            let changes: Vec<(ProcessId, Change)> = changes
                .into_iter()
                .map(|(pid, forked, change)| (ProcessId { pid, forked }, change))
                .collect();
            let journal = Journal::create(&path, b"about").unwrap();
            for (id, change) in &changes {
                journal.note(*id, change);
            }
            (&journal.append).write_all(&[7; 32][..torn]).unwrap();
            drop(journal);
            let (journal, history) = Journal::resume(&path).unwrap();
            prop_assert_eq!(&history.changes, &changes);
            prop_assert_eq!(&history.about, b"about");
            let id = ProcessId { pid: 1, forked: 0 };
            journal.note(id, &Change::Gone);
            drop(journal);
            let (_, history) = Journal::resume(&path).unwrap();
            prop_assert_eq!(history.changes.last(), Some(&(id, Change::Gone)));
        }

        #[test]
        fn hostile_bytes_are_an_error_or_a_history(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("load");
            let mut file = vec![0; HEADER_BYTES];
            file[..LOAD_JOURNAL_HEADER.len()].copy_from_slice(LOAD_JOURNAL_HEADER);
            file.extend(bytes.iter().enumerate().map(|(at, byte)| if at % 32 < 4 { byte % 13 * u8::from(at % 32 == 0) } else { *byte }));
            std::fs::write(&path, file).unwrap();
            drop(Journal::resume(&path));
        }
    }

    #[test]
    fn a_journal_is_resumed_by_one_and_only_when_nothing_was_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load");
        let journal = Arc::new(Journal::create(&path, b"about").unwrap());
        let error = Journal::resume(&path).unwrap_err();
        assert!(matches!(error, HistoryError::InUse { .. }), "{error:?}");
        let window = Journal::open_window(Some(&journal)).unwrap();
        drop(window);
        drop(journal);
        let error = Journal::resume(&path).unwrap_err();
        assert!(matches!(error, HistoryError::Unproved), "{error:?}");
    }

    #[test]
    fn a_change_that_cannot_be_noted_makes_the_journal_void() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("load");
        let journal = Arc::new(Journal::create(&path, b"about").unwrap());
        let id = ProcessId { pid: 1, forked: 0 };
        let huge = PageRun::new(PageIndex(0), 1 << 40);
        journal.note(id, &Change::Moved(huge, PageIndex(1)));
        Journal::open_window(Some(&journal))
            .unwrap()
            .close()
            .unwrap();
        drop(journal);
        let error = Journal::resume(&path).unwrap_err();
        assert!(matches!(error, HistoryError::Unproved), "{error:?}");
    }
}
