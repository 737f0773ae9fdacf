//! Puts an archive back.

mod error;
mod regular;

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    io::{self, BufReader, Read},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode},
    io::Errno,
};

pub use self::error::ExtractError;
use self::error::failed;

use crate::{
    attributes::Attributes,
    item::{Item, Kind},
    mirror,
    place::{self, STAY_BELOW, Temp, Top, open_parent},
    read::{FormatError, Items},
    roots::Roots,
    sparse::{self, Segment},
    summary::{ENTRIES_MAX, Summary},
    xattr::Target,
};

/// Bytes that are written to a file at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Most bytes of attributes that are kept until the end, where directories get theirs.
const DEFERRED_BYTES_MAX: usize = 512 << 20;

/// Most bytes after the archive's end marker (tar fills its last record up).
const TAIL_BYTES_MAX: u64 = 1 << 20;

/// Makes the roots that `input` has what they were when it was archived. Everything in it must lie
/// under `allowed_roots`.
pub fn extract(input: impl Read, allowed_roots: &[PathBuf]) -> Result<Summary, ExtractError> {
    let roots = Roots::new(allowed_roots).map_err(ExtractError::Root)?;
    let tops = roots
        .outermost()
        .map(|path| Top::new(path).map_err(|source| failed("find the way to", path, source)));
    let mut work = Extraction {
        tops: tops.collect::<Result<_, _>>()?,
        roots: &roots,
        have: HashMap::new(),
        directories: Vec::new(),
        deferred_bytes: 0,
        parent: None,
        buffer: vec![0; CHUNK_BYTES],
        summary: Summary::default(),
    };
    let mut archive = tar::Archive::new(BufReader::with_capacity(CHUNK_BYTES, input));
    let mut items = Items::new(&mut archive).map_err(ExtractError::Format)?;
    while let Some((item, body)) = items.next().map_err(ExtractError::Format)? {
        work.item(item, body)?;
    }
    let mut tail = archive.into_inner().take(TAIL_BYTES_MAX);
    // The writer may still be filling its last record; let it finish.
    io::copy(&mut tail, &mut io::sink())
        .map_err(|error| ExtractError::Format(FormatError::Stream(error)))?;
    work.finish()
}

struct Extraction<'a> {
    tops: Vec<Top>,
    roots: &'a Roots,
    /// Everything the archive brought so far, and whether it is a directory.
    have: HashMap<PathBuf, bool>,
    /// Directories with what they get at the end, in the archive's order.
    directories: Vec<(PathBuf, Attributes)>,
    deferred_bytes: usize,
    /// The directory of the last entry: mostly also that of the next.
    parent: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
    summary: Summary,
}

impl Extraction<'_> {
    fn item(&mut self, item: Item, body: impl Read) -> Result<(), ExtractError> {
        let Item {
            path,
            attributes,
            kind,
        } = item;
        if self.have.len() as u64 >= ENTRIES_MAX {
            return Err(ExtractError::Limit {
                limit: "2000000 entries",
            });
        }
        if self
            .have
            .insert(path.clone(), kind == Kind::Directory)
            .is_some()
        {
            return Err(ExtractError::Twice { path });
        }
        let (dir, name) = self.parent_of(&path)?;
        let dir = dir.as_fd();
        if self.tops.iter().any(|top| top.path == path) && !fits_root(dir, &name, &kind) {
            return Err(ExtractError::RootKind { path });
        }
        match kind {
            Kind::Directory => {
                self.directory(dir, &name, &path, attributes)?;
                self.summary.directories += 1;
            }
            Kind::Regular { size } => {
                let segments = [Segment {
                    offset: 0,
                    length: size,
                }];
                self.regular(dir, &name, &path, &attributes, size, &segments, body)?;
            }
            Kind::Sparse { size, .. } => {
                let mut body = body;
                let segments = sparse::decode(&mut body, size)
                    .map_err(|error| ExtractError::Format(FormatError::Stream(error)))?;
                self.regular(dir, &name, &path, &attributes, size, &segments, body)?;
            }
            Kind::Symlink { target } => {
                let target = OsStr::from_bytes(&target);
                let make = |temp: &OsStr| fs::symlinkat(target, dir, temp);
                self.special(dir, &name, &path, &attributes, make)?;
                self.summary.symlinks += 1;
            }
            Kind::Fifo => {
                let make = |temp: &OsStr| fs::mkfifoat(dir, temp, Mode::RUSR | Mode::WUSR);
                self.special(dir, &name, &path, &attributes, make)?;
                self.summary.fifos += 1;
            }
            Kind::HardLink { target } => {
                self.hard_link(dir, &name, &path, &target)?;
                self.summary.hard_links += 1;
            }
        }
        Ok(())
    }

    /// The directory that an entry goes to, opened, and its name in there.
    fn parent_of(&mut self, path: &Path) -> Result<(OwnedFd, OsString), ExtractError> {
        let fail = |source| failed("open the directory of", path, source);
        let Some(top) = self.tops.iter().find(|top| path.starts_with(&top.path)) else {
            return Err(ExtractError::Outside {
                path: path.to_owned(),
            });
        };
        if path == top.path {
            return top.parent().map_err(fail);
        }
        let parent = path.parent().unwrap_or(path);
        if self.have.get(parent) != Some(&true) {
            return Err(ExtractError::NoDirectory {
                path: path.to_owned(),
            });
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        if let Some((cached, dir)) = &self.parent
            && cached == parent
        {
            return Ok((dir.try_clone().map_err(fail)?, name));
        }
        let no_directory = || ExtractError::NoDirectory {
            path: path.to_owned(),
        };
        let directory = top.directory.as_ref().ok_or_else(no_directory)?;
        let below = path.strip_prefix(&top.path).map_err(|_| no_directory())?;
        let (dir, _) = open_parent(directory, below).map_err(fail)?;
        self.parent = Some((parent.to_owned(), dir.try_clone().map_err(fail)?));
        Ok((dir, name))
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attributes: Attributes,
    ) -> Result<(), ExtractError> {
        let top = self.tops.iter_mut().find(|top| top.path == path);
        let opened = place::directory(dir, name)
            .map_err(|source| failed("make the directory", path, source))?;
        if let Some(top) = top {
            top.directory = Some(opened);
        }
        self.deferred_bytes += attributes.footprint() + path.as_os_str().len();
        if self.deferred_bytes > DEFERRED_BYTES_MAX {
            return Err(ExtractError::Limit {
                limit: "512 MiB of attributes of directories",
            });
        }
        self.directories.push((path.to_owned(), attributes));
        Ok(())
    }

    /// A symbolic link or a FIFO.
    fn special(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
        make: impl FnMut(&OsStr) -> Result<(), Errno>,
    ) -> Result<(), ExtractError> {
        let (temp, ()) = Temp::new(dir, make).map_err(|source| failed("create", path, source))?;
        self.apply(attributes, Target::Named(dir, temp.name()), path)?;
        temp.commit(name)
            .map_err(|source| failed("put in place", path, source))
    }

    fn hard_link(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        target: &Path,
    ) -> Result<(), ExtractError> {
        if self.have.get(target) != Some(&false) || target == path {
            let (path, target) = (path.to_owned(), target.to_owned());
            return Err(ExtractError::LinkTarget { path, target });
        }
        let (from, from_name) = self.parent_of(target)?;
        let link = |temp: &OsStr| fs::linkat(&from, &from_name, dir, temp, AtFlags::empty());
        let (temp, ()) =
            Temp::new(dir, link).map_err(|source| failed("create the link", path, source))?;
        temp.commit(name)
            .map_err(|source| failed("put in place", path, source))
    }

    fn apply(
        &mut self,
        attributes: &Attributes,
        target: Target<'_>,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let lost = attributes
            .apply(target)
            .map_err(|source| failed("set the attributes of", path, source))?;
        if !lost.is_empty() {
            self.summary
                .warn(format!("{path:?} lost its {}", lost.join(", ")));
        }
        Ok(())
    }

    /// The archive is complete: removes what it does not have, then sets what only holds when
    /// nothing changes in a directory any more.
    fn finish(mut self) -> Result<Summary, ExtractError> {
        self.parent = None;
        for top in &self.tops {
            let (Some(directory), path) = (&top.directory, &top.path) else {
                continue;
            };
            let keep = |below: &Path| self.have.contains_key(&path.join(below));
            let enter = |below: &Path| self.roots.is_root(&path.join(below));
            mirror::remove_others(directory.as_fd(), path, keep, enter, &mut self.summary)
                .map_err(|source| failed("remove what is not in the archive from", path, source))?;
        }
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let dir = self
                .reopen(&path)
                .map_err(|source| failed("open the directory", &path, source))?;
            self.apply(&attributes, Target::Open(dir.as_fd()), &path)?;
        }
        let missing = self
            .roots
            .outermost()
            .filter(|root| !self.have.contains_key(*root));
        self.summary.missing = missing.map(Path::to_owned).collect();
        Ok(self.summary)
    }

    fn reopen(&self, path: &Path) -> io::Result<OwnedFd> {
        let top = self.tops.iter().find(|top| path.starts_with(&top.path));
        let directory = top.and_then(|top| Some((top.directory.as_ref()?, &top.path)));
        let (directory, top) = directory.ok_or(io::ErrorKind::NotFound)?;
        let below = path
            .strip_prefix(top)
            .ok()
            .filter(|below| !below.as_os_str().is_empty());
        let below = below.unwrap_or(Path::new("."));
        Ok(fs::openat2(
            directory,
            below,
            place::DIRECTORY,
            Mode::empty(),
            STAY_BELOW,
        )?)
    }
}

/// Whether a root may become `kind`: it is missing, or a directory stays one and a file stays one. A
/// root is never a symbolic link, and an archive never changes a directory of the user's into a file.
fn fits_root(dir: BorrowedFd<'_>, name: &OsStr, kind: &Kind) -> bool {
    let directory = *kind == Kind::Directory;
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        _ if matches!(kind, Kind::Symlink { .. }) => false,
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => directory,
            FileType::RegularFile | FileType::Fifo => !directory,
            _ => false,
        },
        // Missing; other errors come again, and are reported, where it is made.
        Err(_) => true,
    }
}
