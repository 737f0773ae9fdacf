//! The walk over the preserved paths, and the stream it writes.
//!
//! Order: roots sorted, a directory before what is in it, names sorted by their bytes. The same tree
//! always gives the same stream.

mod error;
mod regular;

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{BufWriter, Write},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use tar::Builder;

pub use self::error::ArchiveError;
use self::error::{read_error, write_error};

use crate::{
    attributes::Attributes,
    item::{Item, Kind},
    place::STAY_BELOW,
    roots::{PATH_BYTES_MAX, Roots},
    summary::{Limits, Summary},
    write,
    xattr::Target,
};

/// Bytes that are read from a file at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes everything under `roots` to `out` as one archive. A root that does not exist is noted in
/// [`Summary::missing`]. A mount under a root is not entered unless it is a root itself.
pub fn archive(
    roots: &[PathBuf],
    out: impl Write,
    limits: Limits,
) -> Result<Summary, ArchiveError> {
    let roots = Roots::new(roots).map_err(ArchiveError::Root)?;
    let out = Builder::new(BufWriter::with_capacity(CHUNK_BYTES, out));
    let mut walk = Walk {
        roots: &roots,
        out,
        limits,
        summary: Summary::default(),
        links: HashMap::new(),
        mounted_roots: Vec::new(),
        buffer: vec![0; CHUNK_BYTES],
    };
    let start = Path::new("/");
    write::start(&mut walk.out).map_err(|source| write_error(start, source))?;
    let mut pending: Vec<PathBuf> = roots.outermost().map(Path::to_owned).collect();
    pending.reverse();
    while let Some(root) = pending.pop() {
        walk.root(&root)?;
        // Roots that are mounts inside of this one: walked by their own path.
        pending.extend(walk.mounted_roots.drain(..).rev());
    }
    let entries = walk.summary.entries();
    write::end(&mut walk.out, entries).map_err(|source| write_error(start, source))?;
    Ok(walk.summary)
}

struct Walk<'a, W: Write> {
    roots: &'a Roots,
    out: Builder<BufWriter<W>>,
    limits: Limits,
    summary: Summary,
    /// First path of each file with several names, by device and inode number.
    links: HashMap<(u64, u64), PathBuf>,
    mounted_roots: Vec<PathBuf>,
    buffer: Vec<u8>,
}

/// A child of a directory that is being walked.
struct Child<'a> {
    dir: BorrowedFd<'a>,
    name: OsString,
    path: PathBuf,
}

impl<W: Write> Walk<'_, W> {
    fn root(&mut self, root: &Path) -> Result<(), ArchiveError> {
        let stat = match fs::statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.summary.missing.push(root.to_owned());
                return Ok(());
            }
            Err(error) => return Err(read_error("look at", root, error)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Err(ArchiveError::SymlinkRoot {
                path: root.to_owned(),
            }),
            FileType::Directory => self.tree(root),
            _ => {
                let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
                    return Err(ArchiveError::Vanished {
                        path: root.to_owned(),
                    });
                };
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = fs::open(parent, flags, Mode::empty())
                    .map_err(|error| read_error("open", parent, error))?;
                // A root may be a mount of its own: it is named, so it is wanted.
                let child = Child {
                    dir: dir.as_fd(),
                    name: name.to_owned(),
                    path: root.to_owned(),
                };
                self.child(&child, &stat, ResolveFlags::empty())
            }
        }
    }

    /// The directory `root` and everything below.
    fn tree(&mut self, root: &Path) -> Result<(), ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = fs::open(root, flags, Mode::empty())
            .map_err(|error| read_error("open", root, error))?;
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            let path = if below.as_os_str().is_empty() {
                root.into()
            } else {
                root.join(&below)
            };
            let Some(dir) = self.open_directory(&top, &below, &path)? else {
                continue;
            };
            let stat = fs::fstat(&dir).map_err(|error| read_error("look at", &path, error))?;
            self.entry(&path, &stat, Target::Open(dir.as_fd()), Kind::Directory)?;
            self.summary.directories += 1;
            let mut below_this = Vec::new();
            for name in names(&dir, &path)? {
                let child = Child {
                    dir: dir.as_fd(),
                    path: path.join(&name),
                    name,
                };
                let stat = fs::statat(child.dir, &child.name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| read_error("look at", &child.path, error))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    below_this.push(below.join(&child.name));
                } else {
                    self.child(&child, &stat, ResolveFlags::NO_XDEV)?;
                }
            }
            pending.extend(below_this.into_iter().rev());
        }
        Ok(())
    }

    /// Opens a directory of the tree, or notes why it is left out.
    fn open_directory(
        &mut self,
        top: &OwnedFd,
        below: &Path,
        path: &Path,
    ) -> Result<Option<OwnedFd>, ArchiveError> {
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = STAY_BELOW | ResolveFlags::NO_XDEV;
        match fs::openat2(top, below, flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::XDEV) => {
                if self.roots.is_root(path) {
                    self.mounted_roots.push(path.to_owned());
                } else {
                    self.mount_point(top, below, path)?;
                }
                Ok(None)
            }
            Err(Errno::ACCESS) if self.stranger(top, below) => {
                self.summary.warn(format!(
                    "{path:?} was left out: it belongs to somebody else, who does not let the \
                     workload's user read it"
                ));
                Ok(None)
            }
            Err(error) => Err(read_error("open", path, error)),
        }
    }

    /// A directory that something is mounted on: it exists on the other side, empty.
    fn mount_point(&mut self, top: &OwnedFd, at: &Path, path: &Path) -> Result<(), ArchiveError> {
        let fail = |error| read_error("look at", path, error);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::openat2(top, at, flags, Mode::empty(), STAY_BELOW).map_err(fail)?;
        let stat = fs::fstat(&dir).map_err(fail)?;
        let attributes = Attributes {
            xattrs: Vec::new(),
            ..Attributes::from_stat(&stat)
        };
        self.item(&Item {
            path: path.to_owned(),
            attributes,
            kind: Kind::Directory,
        })?;
        self.summary.directories += 1;
        self.summary.warn(format!(
            "what is mounted on {path:?} was left out: preserve that path itself if it is needed"
        ));
        Ok(())
    }

    /// Whether a file that cannot be opened belongs to another user than this process's.
    fn stranger(&self, dir: impl std::os::fd::AsFd, name: &Path) -> bool {
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_uid != rustix::process::geteuid().as_raw())
    }

    /// Anything but a directory.
    fn child(
        &mut self,
        child: &Child<'_>,
        stat: &Stat,
        resolve: ResolveFlags,
    ) -> Result<(), ArchiveError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let id = (stat.st_dev, stat.st_ino);
        let named = Target::Named(child.dir, &child.name);
        match kind {
            FileType::Socket => {
                self.summary.sockets_skipped += 1;
                return Ok(());
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(ArchiveError::Device {
                    path: child.path.clone(),
                });
            }
            _ => {}
        }
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&id)
        {
            let target = first.clone();
            self.entry(&child.path, stat, named, Kind::HardLink { target })?;
            self.summary.hard_links += 1;
            return Ok(());
        }
        match kind {
            FileType::RegularFile => {
                if !self.regular(child, stat, resolve)? {
                    return Ok(());
                }
                self.summary.files += 1;
            }
            FileType::Symlink => {
                let target = fs::readlinkat(child.dir, &child.name, Vec::new())
                    .map_err(|error| read_error("read the link", &child.path, error))?;
                let target = target.into_bytes();
                self.entry(&child.path, stat, named, Kind::Symlink { target })?;
                self.summary.symlinks += 1;
            }
            FileType::Fifo => {
                self.entry(&child.path, stat, named, Kind::Fifo)?;
                self.summary.fifos += 1;
            }
            _ => {
                return Err(ArchiveError::Device {
                    path: child.path.clone(),
                });
            }
        }
        if stat.st_nlink > 1 {
            self.links.insert(id, child.path.clone());
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &Path,
        stat: &Stat,
        target: Target<'_>,
        kind: Kind,
    ) -> Result<(), ArchiveError> {
        let attributes = Attributes::read(stat, target).map_err(|source| ArchiveError::Read {
            what: "read the attributes of",
            path: path.to_owned(),
            source,
        })?;
        self.item(&Item {
            path: path.to_owned(),
            attributes,
            kind,
        })
    }

    fn item(&mut self, item: &Item) -> Result<(), ArchiveError> {
        if item.path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(ArchiveError::PathTooLong {
                path: item.path.clone(),
            });
        }
        if self.summary.entries() >= self.limits.entries_max {
            return Err(ArchiveError::Entries {
                entries_max: self.limits.entries_max,
            });
        }
        write::item(&mut self.out, item).map_err(|source| write_error(&item.path, source))
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.out
            .get_mut()
            .write_all(bytes)
            .map_err(|source| write_error(path, source))
    }
}

/// The names in a directory, sorted by their bytes.
fn names(dir: &OwnedFd, path: &Path) -> Result<Vec<OsString>, ArchiveError> {
    let fail = |error| read_error("list", path, error);
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}
