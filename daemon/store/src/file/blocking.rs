//! The parts of the file store that wait for the file system, each run off the async threads.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::is_absent;
use crate::{ErrorKind, Operation, Result, StoreError};

/// Bytes read at once where a file is read in pieces.
const PIECE_BYTES: usize = 1 << 20;

/// Runs `work` on a thread that may block.
pub(super) async fn off_thread<T: Send + 'static>(
    operation: Operation,
    subject: impl fmt::Display,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| classify(error, operation, subject)),
        Err(error) => {
            let found = "the runtime ended before the file system answered";
            let kind = ErrorKind::Transient;
            Err(StoreError::new(kind, operation, subject, found).because(error))
        }
    }
}

/// What an I/O error means. Conditional writes fail before their rename or are done, except for an
/// error of the sync that follows it.
pub(super) fn classify(
    error: io::Error,
    operation: Operation,
    subject: impl fmt::Display,
) -> StoreError {
    use io::ErrorKind as Io;
    let writes = !matches!(
        operation,
        Operation::Get | Operation::GetRange | Operation::Head
    );
    let (kind, found) = match error.kind() {
        Io::NotFound if writes => (ErrorKind::NoBucket, "the store's folder is gone"),
        Io::NotADirectory | Io::IsADirectory if writes => (
            ErrorKind::Invalid,
            "the key is the folder of another object, or inside of one",
        ),
        _ if is_absent(&error) => (ErrorKind::NotFound, "no such object"),
        Io::AlreadyExists => (ErrorKind::AlreadyExists, "the object exists"),
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Full, "the file system is full"),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "the file system does not allow it")
        }
        Io::InvalidInput | Io::InvalidFilename | Io::FileTooLarge => {
            (ErrorKind::Invalid, "the file system refuses it")
        }
        _ => (ErrorKind::Transient, "the file system failed"),
    };
    StoreError::new(kind, operation, subject, found).because(error)
}

/// A synced temporary file, deleted when dropped unless it was renamed.
pub(super) struct Temp {
    path: PathBuf,
}

impl Temp {
    pub(super) fn write(dir: &Path, pieces: &[Bytes]) -> io::Result<Self> {
        let temp = Self {
            path: dir.join(uuid::Uuid::new_v4().simple().to_string()),
        };
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp.path)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        Ok(temp)
    }

    /// Moves the file to `path` below `root`, making folders as needed, and syncs what changed.
    /// With `create` an existing file there is refused with `AlreadyExists`.
    pub(super) fn rename(mut self, root: &Path, path: &Path, create: bool) -> io::Result<()> {
        let parent = path.parent().unwrap_or(root);
        make_folders(root, parent)?;
        let flags = if create {
            RenameFlags::NOREPLACE
        } else {
            RenameFlags::empty()
        };
        match renameat_with(CWD, &self.path, CWD, path, flags) {
            Ok(()) => {}
            // Not every file system has NOREPLACE. The caller looked, and holds the key's lock.
            Err(Errno::INVAL | Errno::NOSYS) if create => fs::rename(&self.path, path)?,
            Err(errno) => return Err(errno.into()),
        }
        self.path.clear();
        sync_folder(parent)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(file = %self.path.display(), %error, "temporary file left for the sweep");
        }
    }
}

/// Makes the folders from `root` (which must exist) to `folder`, each synced into its parent.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(root);
    make_folders(root, parent)?;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => sync_folder(parent),
        // Another writer made it, or it is an object, which the rename will find.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sync_folder(parent),
        Err(error) => Err(error),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Deletes a file and syncs its folder; nothing there is no error.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_file(path: &Path) -> io::Result<(fs::File, u64)> {
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() {
        Ok((file, meta.len()))
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Reads a file of at most `max_bytes`; else tells its size.
pub(super) fn read(path: &Path, max_bytes: u64) -> io::Result<std::result::Result<Vec<u8>, u64>> {
    let (mut file, size) = open_file(path)?;
    let len = match usize::try_from(size) {
        Ok(len) if size <= max_bytes => len,
        _ => return Ok(Err(size)),
    };
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes)?;
    Ok(Ok(bytes))
}

/// Reads a range of a file that is long enough; else tells its size.
pub(super) fn read_range(
    path: &Path,
    offset: u64,
    len: u64,
) -> io::Result<std::result::Result<Vec<u8>, u64>> {
    let (file, size) = open_file(path)?;
    let len = match usize::try_from(len) {
        Ok(bytes) if offset.checked_add(len).is_some_and(|end| end <= size) => bytes,
        _ => return Ok(Err(size)),
    };
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(Ok(bytes))
}

/// Size of a file.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    open_file(path).map(|(_, size)| size)
}

/// Size and digest of a file's bytes.
pub(super) fn size_and_hash(path: &Path) -> io::Result<(u64, blake3::Hash)> {
    let (mut file, _) = open_file(path)?;
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((hasher.count(), hasher.finalize())),
            Ok(read) => {
                hasher.update(&piece[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
