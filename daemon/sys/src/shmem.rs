//! Objects of shared memory: anonymous shared mappings, memfds, System V segments.
//!
//! The kernel keeps all of them as files of one file system that is mounted nowhere. What they hold
//! is read through a descriptor, whichever part of them is mapped where; reading leaves holes as
//! they are. An object is looked at through `/proc/PID/map_files` and `/proc/PID/fd`, which takes
//! CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and ptrace access.
//!
//! Other file systems (a tmpfs somewhere, hugetlbfs, secret memory) are none of these.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use lifeboat_proto::units::{PAGE_SIZE, PageIndex, PageRun};
use rustix::{
    fs::{MemfdFlags, SeekFrom},
    process::Pid,
};

use crate::maps::{self, MapsError};

/// Most descriptors of a process that are looked at.
pub const DESCRIPTORS_MAX: usize = 1 << 20;

/// What tells objects apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Device, as stat(2) tells it.
    pub device: u64,
    /// Inode; of a System V segment its identifier, which may be the inode of a memfd too.
    pub inode: u64,
}

/// An object.
#[derive(Debug)]
pub struct SharedObject {
    key: ObjectKey,
    file: File,
}

/// What kind an object is of, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Anonymous, or a memfd.
    Plain,
    /// A System V segment.
    SysV,
}

/// Why objects could not be found or read.
#[derive(Debug, thiserror::Error)]
pub enum ShmemError {
    /// The kernel has no such file system, or no descriptor was left.
    #[error("find the device of shared memory")]
    Device(#[source] io::Error),
    /// The mappings of a process could not be read.
    #[error("read the mappings of process {pid}")]
    Maps {
        /// The process.
        pid: i32,
        /// Why.
        source: MapsError,
    },
    /// The descriptors of a process could not be listed.
    #[error("list the descriptors of process {pid}")]
    Descriptors {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// An object could not be opened.
    #[error("open shared memory {inode} through {path}")]
    Open {
        /// The object.
        inode: u64,
        /// Through which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// An object could not be looked at.
    #[error("find the pages of shared memory {inode}")]
    Look {
        /// The object.
        inode: u64,
        /// Why.
        source: io::Error,
    },
    /// An object could not be read.
    #[error("read shared memory {inode} at {page}")]
    Read {
        /// The object.
        inode: u64,
        /// The first page that could not be read.
        page: PageIndex,
        /// Why; an unexpected end: it was cut.
        source: io::Error,
    },
}

impl SharedObject {
    /// What tells it apart.
    #[must_use]
    pub const fn key(&self) -> ObjectKey {
        self.key
    }

    /// Its size in whole pages. What is left of an odd size is not counted: a part of a page
    /// cannot be read to the end of the page through a descriptor.
    ///
    /// # Errors
    /// [`ShmemError::Look`].
    pub fn whole_pages(&self) -> Result<u64, ShmemError> {
        let data = self.file.metadata();
        Ok(data.map_err(|source| self.look(source))?.len() / PAGE_SIZE)
    }

    /// The pages that hold something, ascending: also those that nobody has mapped, or that are
    /// swapped out. Only whole pages.
    ///
    /// # Errors
    /// [`ShmemError::Look`].
    pub fn present(&self) -> Result<Vec<PageRun>, ShmemError> {
        let end = self.whole_pages()? * PAGE_SIZE;
        let mut present = Vec::new();
        let mut at = 0;
        while at < end {
            let Some(data) = self.seek(SeekFrom::Data(at))? else {
                break;
            };
            let hole = self.seek(SeekFrom::Hole(data))?.unwrap_or(data);
            let (first, after) = (data / PAGE_SIZE, hole.min(end).div_ceil(PAGE_SIZE));
            if first >= after {
                break;
            }
            present.push(PageRun::new(PageIndex(first), after - first));
            at = after * PAGE_SIZE;
        }
        Ok(present)
    }

    /// Where data or a hole begins; `None`: there is none up to the end.
    fn seek(&self, to: SeekFrom) -> Result<Option<u64>, ShmemError> {
        match rustix::fs::seek(&self.file, to) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.look(errno.into())),
        }
    }

    /// Reads the pages of `runs`, in that order, into `buffer`, which must have their size. Holes
    /// are zeros, and stay holes.
    ///
    /// # Errors
    /// [`ShmemError::Read`]; the content of `buffer` is undefined then.
    pub fn read_runs(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), ShmemError> {
        let mut rest = buffer;
        for run in runs {
            let fail = |source| ShmemError::Read {
                inode: self.key.inode,
                page: run.start,
                source,
            };
            let bytes = usize::try_from(run.bytes()).unwrap_or(usize::MAX);
            let Some((piece, after)) = std::mem::take(&mut rest).split_at_mut_checked(bytes) else {
                return Err(fail(io::ErrorKind::InvalidInput.into()));
            };
            rest = after;
            self.file
                .read_exact_at(piece, run.start.addr().0)
                .map_err(fail)?;
        }
        Ok(())
    }

    fn look(&self, source: io::Error) -> ShmemError {
        ShmemError::Look {
            inode: self.key.inode,
            source,
        }
    }
}

/// The objects of some processes.
#[derive(Debug)]
pub struct Objects {
    device: u64,
    found: BTreeMap<ObjectKey, Found>,
}

#[derive(Debug)]
struct Found {
    kind: ObjectKind,
    /// `None`: there are two objects with this key.
    object: Option<SharedObject>,
}

impl Objects {
    /// None yet.
    ///
    /// # Errors
    /// [`ShmemError::Device`].
    pub fn new() -> Result<Self, ShmemError> {
        let device = || {
            let probe = rustix::fs::memfd_create("probe", MemfdFlags::CLOEXEC)?;
            Ok(File::from(probe).metadata()?.dev())
        };
        Ok(Self {
            device: device().map_err(ShmemError::Device)?,
            found: BTreeMap::new(),
        })
    }

    /// Adds what a process has mapped or open. One that has ended has nothing.
    ///
    /// # Errors
    /// [`ShmemError`]; what changes while a process runs is no error.
    pub fn add_process(&mut self, pid: Pid) -> Result<(), ShmemError> {
        let number = pid.as_raw_nonzero().get();
        let mappings = match maps::read(pid) {
            Ok(mappings) => mappings,
            Err(error) if error.is_gone() => return Ok(()),
            Err(source) => {
                return Err(ShmemError::Maps {
                    pid: number,
                    source,
                });
            }
        };
        for mapping in mappings {
            let device = rustix::fs::makedev(mapping.device.major, mapping.device.minor);
            if device != self.device || mapping.inode == 0 {
                continue;
            }
            let kind = if mapping.name.starts_with(b"/SYSV") {
                ObjectKind::SysV
            } else {
                ObjectKind::Plain
            };
            let (start, end) = (mapping.run.start.addr().0, mapping.run.end().addr().0);
            let path = format!("/proc/{number}/map_files/{start:x}-{end:x}");
            self.add(mapping.inode, kind, path)?;
        }
        self.add_descriptors(number)
    }

    fn add_descriptors(&mut self, pid: i32) -> Result<(), ShmemError> {
        let folder = format!("/proc/{pid}/fd");
        let listed = match fs::read_dir(&folder) {
            Ok(listed) => listed,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(source) => return Err(ShmemError::Descriptors { pid, source }),
        };
        for entry in listed.take(DESCRIPTORS_MAX) {
            let Ok(entry) = entry else { break };
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            let Ok(data) = fs::metadata(&path) else {
                continue;
            };
            if data.dev() == self.device && data.is_file() {
                self.add(data.ino(), ObjectKind::Plain, path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, inode: u64, kind: ObjectKind, path: String) -> Result<(), ShmemError> {
        let key = ObjectKey {
            device: self.device,
            inode,
        };
        if let Some(found) = self.found.get_mut(&key) {
            if found.kind != kind {
                found.object = None;
            }
            return Ok(());
        }
        let opened = File::open(&path).and_then(|file| {
            let data = file.metadata()?;
            Ok((file, data.dev() == self.device && data.ino() == inode))
        });
        match opened {
            Ok((file, true)) => {
                let object = Some(SharedObject { key, file });
                self.found.insert(key, Found { kind, object });
                Ok(())
            }
            // Something else is there by now.
            Ok((_, false)) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(source) => Err(ShmemError::Open {
                inode,
                path,
                source,
            }),
        }
    }

    /// Takes all that were found. Those that cannot be told from another one are left out.
    pub fn into_objects(self) -> impl Iterator<Item = SharedObject> {
        self.found.into_values().filter_map(|found| found.object)
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}
