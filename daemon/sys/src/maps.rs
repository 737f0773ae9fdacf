//! Mappings of a process: `/proc/PID/maps`, and `/proc/PID/smaps` for their flags (proc(5)).
//!
//! `maps` costs microseconds per mapping. `smaps` makes the kernel walk all page tables of the
//! process, tens of milliseconds per GiB: for the flags only, and not in every round.
//!
//! A running process changes its mappings while they are read: the list is that of no single
//! moment, but it is ascending and without overlaps, since what the kernel tells twice is cut.
//! Names are chosen by the process and are bytes, not text; everything is bounded.

mod extent;
mod parse;

pub use extent::Extents;

use std::{
    fs::File,
    io::{self, Read},
};

use lifeboat_proto::units::PageRun;
use rustix::process::Pid;

use crate::flags::flag_set;

/// Most mappings read of one process. The kernel's own limit, `vm.max_map_count`, is 65530 unless
/// raised.
pub const MAPPINGS_MAX: usize = 1 << 20;

/// Most bytes read of either file.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// A mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its pages.
    pub run: PageRun,
    /// What the process may do with them.
    pub permissions: Permissions,
    /// Writes are seen by others (`MAP_SHARED`).
    pub shared: bool,
    /// Where in its file it begins, in bytes.
    pub offset: u64,
    /// The device that its file is on; 0:0 without a file.
    pub device: Device,
    /// Its file; 0 without a file.
    pub inode: u64,
    /// The file's path as the process sees it, or a name in brackets, or nothing.
    pub name: Vec<u8>,
    /// Only from [`read_with_flags`].
    pub flags: Option<VmFlags>,
}

/// Permissions of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

/// Number of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

flag_set! {
    /// What the kernel tells of a mapping in `VmFlags` (proc(5)); the bits are this crate's own.
    pub struct VmFlags {
        /// `rd`: may be read.
        READ = 1_u64 << 0;
        /// `wr`: may be written.
        WRITE = 1_u64 << 1;
        /// `ex`: may be executed.
        EXECUTE = 1_u64 << 2;
        /// `sh`: shared.
        SHARED = 1_u64 << 3;
        /// `gd`: grows downwards, as stacks do.
        GROWS_DOWN = 1_u64 << 4;
        /// `lo`: locked in memory (mlock(2)).
        LOCKED = 1_u64 << 5;
        /// `ht`: of huge pages of hugetlbfs.
        HUGETLB = 1_u64 << 6;
        /// `io`: memory of a device.
        IO = 1_u64 << 7;
        /// `pf`: page frames without `struct page`.
        PFNMAP = 1_u64 << 8;
        /// `nr`: no swap space reserved.
        NO_RESERVE = 1_u64 << 9;
        /// `dd`: left out of core dumps (`MADV_DONTDUMP`).
        DONT_DUMP = 1_u64 << 10;
        /// `dc`: not given to children (`MADV_DONTFORK`).
        DONT_FORK = 1_u64 << 11;
        /// `wf`: zeros in children (`MADV_WIPEONFORK`).
        WIPE_ON_FORK = 1_u64 << 12;
        /// `um`: missing pages are reported to a userfaultfd.
        UFFD_MISSING = 1_u64 << 13;
        /// `uw`: writes to protected pages are reported to, or noted for, a userfaultfd.
        UFFD_WRITE_PROTECT = 1_u64 << 14;
        /// `ui`: minor faults are reported to a userfaultfd.
        UFFD_MINOR = 1_u64 << 15;
        /// `sd`: soft-dirty.
        SOFT_DIRTY = 1_u64 << 16;
        /// `mg`: may be merged with equal pages (`MADV_MERGEABLE`).
        MERGEABLE = 1_u64 << 17;
        /// `hg`: huge pages wanted (`MADV_HUGEPAGE`).
        HUGE_PAGE = 1_u64 << 18;
        /// `nh`: huge pages not wanted (`MADV_NOHUGEPAGE`).
        NO_HUGE_PAGE = 1_u64 << 19;
        /// `sr`: read in sequence (`MADV_SEQUENTIAL`).
        SEQUENTIAL = 1_u64 << 20;
        /// `rr`: read at random (`MADV_RANDOM`).
        RANDOM = 1_u64 << 21;
        /// `ss`: a shadow stack.
        SHADOW_STACK = 1_u64 << 22;
        /// `dp`: the kernel may drop its pages at any time (`MAP_DROPPABLE`).
        DROPPABLE = 1_u64 << 23;
        /// `sl`: sealed (mseal(2)).
        SEALED = 1_u64 << 24;
        /// `ac`: counted as committed memory.
        ACCOUNTED = 1_u64 << 25;
        /// `mm`: of mixed pages and page frames.
        MIXED = 1_u64 << 26;
        /// `dw`: writing to its file is refused.
        DENY_WRITE = 1_u64 << 27;
        /// `mr`: may be made readable.
        MAY_READ = 1_u64 << 28;
        /// `mw`: may be made writable.
        MAY_WRITE = 1_u64 << 29;
        /// `me`: may be made executable.
        MAY_EXECUTE = 1_u64 << 30;
        /// `ms`: may be shared.
        MAY_SHARE = 1_u64 << 31;
        /// `de`: does not grow by mremap(2), as drivers want it.
        DONT_EXPAND = 1_u64 << 32;
        /// Something this crate has no name for.
        UNKNOWN = 1_u64 << 63;
    }
}

/// Why mappings could not be told.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The process has ended.
    #[error("process {pid} is gone")]
    Gone {
        /// Number of the process.
        pid: i32,
    },
    /// The file could not be read.
    #[error("read /proc/{pid}/{file}")]
    Read {
        /// Number of the process.
        pid: i32,
        /// `maps` or `smaps`.
        file: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A line is not what the kernel writes.
    #[error("line {line} of the mappings is malformed: {what}")]
    Malformed {
        /// Number of the line, from 1 on.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More than [`MAPPINGS_MAX`] mappings, or [`FILE_BYTES_MAX`] bytes.
    #[error("process {pid} has too many mappings")]
    TooMany {
        /// Number of the process.
        pid: i32,
    },
}

impl MapsError {
    /// The process has ended.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

impl Mapping {
    /// Private memory without a file: heap, stacks, what malloc(3) takes. Not what the kernel
    /// provides (vdso and the like).
    #[must_use]
    pub fn is_private_anonymous(&self) -> bool {
        !self.shared && self.is_anonymous()
    }

    /// Memory without a file, not provided by the kernel.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.inode == 0 && self.device == Device::default() && !self.is_provided_by_kernel()
    }

    /// Provided by the kernel, the same in every process: `[vdso]`, `[vvar]`, `[vsyscall]`, ….
    #[must_use]
    pub fn is_provided_by_kernel(&self) -> bool {
        [
            &b"[vdso"[..],
            b"[vvar",
            b"[vsyscall",
            b"[vectors",
            b"[sigpage",
            b"[uprobes",
        ]
        .iter()
        .any(|name| self.name.starts_with(name))
    }

    /// Whether CRIU 4.2 can restore its pages lazily (`vma_entry_can_be_lazy`): private, anonymous,
    /// neither locked, nor of huge pages, nor such that the kernel may drop its pages.
    /// `None`: flags are not known.
    #[must_use]
    pub fn can_be_lazy(&self) -> Option<bool> {
        let refused =
            VmFlags::LOCKED | VmFlags::HUGETLB | VmFlags::SHADOW_STACK | VmFlags::DROPPABLE;
        self.flags
            .map(|flags| self.is_private_anonymous() && !flags.intersects(refused))
    }
}

/// The mappings of process `pid`, without flags.
///
/// # Errors
/// [`MapsError`]. A process without memory (a zombie) has no mappings, without an error.
pub fn read(pid: Pid) -> Result<Vec<Mapping>, MapsError> {
    read_file(pid, "maps")
}

/// The mappings of process `pid` with their flags. Slow: see the module.
///
/// # Errors
/// [`MapsError`].
pub fn read_with_flags(pid: Pid) -> Result<Vec<Mapping>, MapsError> {
    read_file(pid, "smaps")
}

fn read_file(pid: Pid, file: &'static str) -> Result<Vec<Mapping>, MapsError> {
    let pid = pid.as_raw_nonzero().get();
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => MapsError::Gone { pid },
        _ => MapsError::Read { pid, file, source },
    };
    let opened = File::open(format!("/proc/{pid}/{file}")).map_err(failed)?;
    let mut text = Vec::new();
    let read = opened
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if read as u64 == FILE_BYTES_MAX {
        return Err(MapsError::TooMany { pid });
    }
    let mappings = parse::mappings(&text)?;
    if mappings.len() > MAPPINGS_MAX {
        return Err(MapsError::TooMany { pid });
    }
    Ok(mappings)
}

/// Parses the text of either file.
///
/// # Errors
/// [`MapsError::Malformed`].
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, MapsError> {
    parse::mappings(text)
}
