//! Objects as files of a folder: one machine, or a shared file system with working locks.
//!
//! ```text
//! ROOT/packs/0f/3a9c            an object: its key is its path
//! ROOT/.lifeboat/tmp/<uuid>     a write under way (no key has a segment that begins with a dot)
//! ROOT/.lifeboat/locks/00..3f   locks, each for the keys of one hash value; never deleted
//! ```
//!
//! A write goes to a temporary file, which is synced, then renamed to its place while the key's
//! lock is held, then the folder is synced: killed at any point, there is the old object or the new
//! one, and at most a temporary file, which [`File::open`] sweeps when it is [`TEMP_AGE_MAX`] old.
//! The lock is flock(2), which the kernel drops when its holder dies. It makes create, replace and
//! delete of one key atomic against each other among all processes; readers need no lock, since the
//! file they opened never changes.
//!
//! An object's version is the BLAKE3 digest of its bytes, so `head` reads the file.
//!
//! An operation that is dropped while the file system works on it may still take effect.

mod blocking;
mod walk;

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use crate::{
    Call, ErrorKind, Key, Meta, Object, Operation, Page, Prefix, Result, Store, StoreError, Version,
};
use blocking::{Temp, classify, off_thread};

/// Temporary files older than this belong to nobody: a write takes minutes at most.
pub const TEMP_AGE_MAX: Duration = Duration::from_secs(3600);

/// Longest wait for another writer of the same key. Locks are held for a rename and a sync.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// First and longest pause between two looks at a lock that is held.
const LOCK_POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Number of lock files: enough that writers of different keys seldom meet.
const LOCKS: u8 = 64;

/// A store in a folder.
#[derive(Clone, Debug)]
pub struct File {
    root: Arc<Path>,
}

impl File {
    /// Opens the store in `root`, which is made (mode 0700) if it does not exist, and sweeps what
    /// killed writers left. Call it where blocking is allowed; it is short.
    ///
    /// # Errors
    /// If the folder cannot be made, read or written.
    pub fn open(root: &Path) -> io::Result<Self> {
        for dir in [
            root.to_owned(),
            root.join(".lifeboat/tmp"),
            root.join(".lifeboat/locks"),
        ] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)?;
        }
        let mode = fs::metadata(root)?.mode();
        if mode & 0o022 != 0 {
            tracing::warn!(
                dir = %root.display(), mode = format!("{:o}", mode & 0o7777),
                "others may write to the store's folder"
            );
        }
        let store = Self { root: root.into() };
        store.sweep(SystemTime::now())?;
        Ok(store)
    }

    /// Deletes temporary files that were last written [`TEMP_AGE_MAX`] before `now`.
    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(".lifeboat/tmp"))? {
            let entry = entry?;
            // Another process may sweep at the same time: a file that is gone is no error.
            let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else {
                continue;
            };
            if now
                .duration_since(modified)
                .is_ok_and(|age| age > TEMP_AGE_MAX)
            {
                match fs::remove_file(entry.path()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {
                        tracing::info!(file = %entry.path().display(), "swept an unfinished write")
                    }
                }
            }
        }
        Ok(())
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Writes and syncs a temporary file.
    async fn stage(&self, operation: Operation, key: &Key, pieces: Vec<Bytes>) -> Result<Temp> {
        let dir = self.root.join(".lifeboat/tmp");
        off_thread(operation, key, move || Temp::write(&dir, &pieces)).await
    }

    /// Takes the key's lock; it is held until the descriptor is closed.
    async fn lock(&self, operation: Operation, key: &Key, call: Call) -> Result<OwnedFd> {
        let slot = blake3::hash(key.as_str().as_bytes()).as_bytes()[0] % LOCKS;
        let path = self.root.join(format!(".lifeboat/locks/{slot:02x}"));
        let open = move || {
            let mut options = fs::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
        };
        let file = off_thread(operation, key, open).await?;
        let (call, mut pause) = (call.at_most(LOCK_WAIT_MAX), LOCK_POLL.0);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file.into()),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(classify(errno.into(), operation, key)),
            }
            if call.left().is_some_and(|left| left.is_zero()) {
                let found = "another writer holds the lock of this key";
                return Err(StoreError::new(ErrorKind::Transient, operation, key, found));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOCK_POLL.1);
        }
    }

    /// Moves a staged file to its place if `allowed` says so, with the key's lock held.
    async fn commit(
        &self,
        operation: Operation,
        key: &Key,
        temp: Temp,
        condition: Condition,
        call: Call,
    ) -> Result<()> {
        let lock = self.lock(operation, key, call).await?;
        let (root, path) = (Arc::clone(&self.root), self.path(key));
        let conditional = !matches!(condition, Condition::Always);
        let verdict = off_thread(operation, key, move || {
            let verdict = condition.check(&path)?;
            if verdict.is_ok() {
                temp.rename(&root, &path, matches!(condition, Condition::Absent))?;
            }
            drop(lock);
            Ok(verdict)
        });
        let refused = |(kind, found)| StoreError::new(kind, operation, key, found);
        match verdict.await {
            Ok(verdict) => verdict.map_err(refused),
            // It may have failed after the rename.
            Err(error) if conditional && error.kind() == ErrorKind::Transient => {
                Err(error.into_kind(ErrorKind::Unknown))
            }
            Err(error) => Err(error),
        }
    }
}

/// What must hold for a write to be done.
enum Condition {
    Always,
    Absent,
    Is(Version),
}

impl Condition {
    fn check(&self, path: &Path) -> io::Result<std::result::Result<(), (ErrorKind, String)>> {
        let found = match self {
            Self::Always => return Ok(Ok(())),
            Self::Absent => fs::exists(path)?.then(String::new),
            Self::Is(_) => match fs::read(path) {
                Ok(bytes) => Some(stamp(&bytes).as_str().to_owned()),
                Err(error) if is_absent(&error) => None,
                Err(error) => return Err(error),
            },
        };
        Ok(match (self, found) {
            (Self::Absent, Some(_)) => {
                Err((ErrorKind::AlreadyExists, "the object exists".to_owned()))
            }
            (Self::Is(_), None) => Err((ErrorKind::Conflict, "the object is gone".to_owned())),
            (Self::Is(version), Some(found)) if version.as_str() != found => {
                let found = format!("expected version {}, found {found}", version.as_str());
                Err((ErrorKind::Conflict, found))
            }
            _ => Ok(()),
        })
    }
}

fn stamp(bytes: &[u8]) -> Version {
    Version::new(blake3::hash(bytes).to_hex().as_str())
}

/// A path that is not there, or lies under an object, or is a folder of objects.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

#[async_trait]
impl Store for File {
    async fn put(&self, key: &Key, body: Bytes, call: Call) -> Result<()> {
        self.put_pieces(key, vec![body], call).await
    }

    async fn put_pieces(&self, key: &Key, pieces: Vec<Bytes>, call: Call) -> Result<()> {
        let temp = self.stage(Operation::Put, key, pieces).await?;
        self.commit(Operation::Put, key, temp, Condition::Always, call)
            .await
    }

    fn takes_pieces(&self) -> bool {
        true
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        let operation = Operation::PutIfAbsent;
        let version = stamp(&body);
        let temp = self.stage(operation, key, vec![body]).await?;
        self.commit(operation, key, temp, Condition::Absent, call)
            .await?;
        Ok(version)
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        version: &Version,
        call: Call,
    ) -> Result<Version> {
        let operation = Operation::PutIfMatch;
        let new = stamp(&body);
        let temp = self.stage(operation, key, vec![body]).await?;
        self.commit(operation, key, temp, Condition::Is(version.clone()), call)
            .await?;
        Ok(new)
    }

    async fn get(&self, key: &Key, max_bytes: u64, _: Call) -> Result<Object> {
        let path = self.path(key);
        let read = off_thread(Operation::Get, key, move || {
            blocking::read(&path, max_bytes)
        });
        match read.await? {
            Ok(bytes) => Ok(Object {
                version: stamp(&bytes),
                bytes: bytes.into(),
            }),
            Err(size) => Err(StoreError::too_large(key, size, max_bytes)),
        }
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, _: Call) -> Result<Bytes> {
        let path = self.path(key);
        let read = move || blocking::read_range(&path, offset, len);
        match off_thread(Operation::GetRange, key, read).await? {
            Ok(bytes) => Ok(bytes.into()),
            Err(size) => Err(StoreError::out_of_range(key, offset, len, Some(size))),
        }
    }

    async fn head(&self, key: &Key, _: Call) -> Result<Meta> {
        let path = self.path(key);
        let (size, hash) =
            off_thread(Operation::Head, key, move || blocking::size_and_hash(&path)).await?;
        Ok(Meta {
            size,
            version: Version::new(hash.to_hex().as_str()),
        })
    }

    async fn size(&self, key: &Key, _: Call) -> Result<u64> {
        let path = self.path(key);
        off_thread(Operation::Head, key, move || blocking::size(&path)).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, _: Call) -> Result<Page> {
        let (root, under, after) = (Arc::clone(&self.root), prefix.clone(), after.cloned());
        let walk = move || walk::page(&root, &under, after.as_ref());
        off_thread(Operation::List, prefix, walk)
            .await
            .map(Page::of)
    }

    async fn delete(&self, key: &Key, call: Call) -> Result<()> {
        let lock = self.lock(Operation::Delete, key, call).await?;
        let path = self.path(key);
        let delete = move || {
            blocking::delete(&path)?;
            drop(lock);
            Ok(())
        };
        off_thread(Operation::Delete, key, delete).await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.root.display())
    }
}
