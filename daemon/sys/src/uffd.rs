//! Userfaultfd (userfaultfd(2), ioctl_userfaultfd(2)): serving missing pages of another process,
//! and asking the kernel to note its writes.
//!
//! # Whoever serves missing pages must know
//! - **When the last descriptor of a userfaultfd closes, missing pages become zeros without a
//!   word.** Keep a duplicate ([`Uffd::try_clone`]) where it outlives the server.
//! - Each [`Event`] other than a fault blocks the thread that caused it until it is read.
//! - **While such an event is queued, every install answers [`Obstacle::Again`].** Read events,
//!   then repeat.
//! - **Faults are read before events that happened earlier**, because the kernel hands out all
//!   waiting faults first. So: read until nothing is left; apply fork, remap, remove and unmap to
//!   the map of what belongs where; only then look up where a fault's page comes from.
//! - A `Remap` is followed by the `Unmap` of the old place.
//! - `Remap` and `Unmap` are told after the fact, `Remove` before it: a page installed between
//!   reading `Remove` and the removal is lost again, rightly. Whatever was in its range is zeros
//!   from the moment it is read: later faults there want [`Uffd::zero`].
//! - `Fork` brings the child's own userfaultfd: what was missing in the parent at that moment must
//!   be served to both.
//! - [`Obstacle::NotMapped`] means that the range left its mapping, or that it crosses a border of
//!   mappings. Look at the events again and never drop the page because of it.
//! - [`Obstacle::Exists`]: somebody else installed the page. A thread may still wait:
//!   [`Uffd::wake`].
//! - A range belongs to one userfaultfd at a time.

mod event;
mod install;

pub use self::{
    event::{EVENTS_MAX, Event, EventBuffer, FaultFlags},
    install::{Install, Obstacle, Progress},
};

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use lifeboat_proto::units::{PageRun, RemoteAddr};
use linux_raw_sys::general::{self as raw, uffdio_api, uffdio_range, uffdio_register};
use rustix::mm::UserfaultfdFlags;

use crate::{flags::flag_set, ioctl};

/// `UFFD_API`: version of the interface, and kind of its ioctls.
const API: u8 = 0xaa;

const UFFDIO_API: u32 = ioctl::iowr(API, 0x3f, size_of::<uffdio_api>());
const UFFDIO_REGISTER: u32 = ioctl::iowr(API, 0x00, size_of::<uffdio_register>());
const UFFDIO_UNREGISTER: u32 = ioctl::ior(API, 0x01, size_of::<uffdio_range>());

const _: () = assert!(API as u32 == raw::UFFD_API);
const _: () = assert!(size_of::<uffdio_api>() == 24);
const _: () = assert!(size_of::<uffdio_register>() == 32);
const _: () = assert!(size_of::<uffdio_range>() == 16);
const _: () = assert!(UFFDIO_API == linux_raw_sys::ioctl::UFFDIO_API);
const _: () = assert!(UFFDIO_REGISTER == linux_raw_sys::ioctl::UFFDIO_REGISTER);
const _: () = assert!(UFFDIO_UNREGISTER == linux_raw_sys::ioctl::UFFDIO_UNREGISTER);

flag_set! {
    /// Features of a userfaultfd (`UFFD_FEATURE_…`).
    pub struct Features {
        /// Faults on protected pages say so.
        PAGEFAULT_FLAG_WP = raw::UFFD_FEATURE_PAGEFAULT_FLAG_WP;
        /// Children are told and get a userfaultfd; needs `CAP_SYS_PTRACE`.
        EVENT_FORK = raw::UFFD_FEATURE_EVENT_FORK;
        /// mremap(2) is told.
        EVENT_REMAP = raw::UFFD_FEATURE_EVENT_REMAP;
        /// `MADV_DONTNEED` and the like are told.
        EVENT_REMOVE = raw::UFFD_FEATURE_EVENT_REMOVE;
        /// munmap(2) is told.
        EVENT_UNMAP = raw::UFFD_FEATURE_EVENT_UNMAP;
        /// Missing pages of shared memory can be served.
        MISSING_SHMEM = raw::UFFD_FEATURE_MISSING_SHMEM;
        /// Faults say which thread waits.
        THREAD_ID = raw::UFFD_FEATURE_THREAD_ID;
        /// Faults say the exact address.
        EXACT_ADDRESS = raw::UFFD_FEATURE_EXACT_ADDRESS;
        /// Write protection of shared and huge memory.
        WP_HUGETLBFS_SHMEM = raw::UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        /// Write protection of holes (kernel 6.4).
        WP_UNPOPULATED = raw::UFFD_FEATURE_WP_UNPOPULATED;
        /// The kernel notes writes by itself (kernel 6.7).
        WP_ASYNC = raw::UFFD_FEATURE_WP_ASYNC;
        /// Pages can be moved within an address space (kernel 6.8).
        MOVE = raw::UFFD_FEATURE_MOVE;
    }
}

impl Features {
    /// What write tracking asks for: writes are noted, no fault is ever reported.
    pub const TRACKING: Self = Self::WP_ASYNC
        .union(Self::WP_UNPOPULATED)
        .union(Self::PAGEFAULT_FLAG_WP);

    /// What CRIU 4.2 asks for when it restores lazily (`criu/uffd.c`).
    pub const LAZY_RESTORE: Self = Self::EVENT_FORK
        .union(Self::EVENT_REMAP)
        .union(Self::EVENT_UNMAP)
        .union(Self::EVENT_REMOVE);
}

flag_set! {
    /// What to be told, or to have noted, of a range (`UFFDIO_REGISTER_MODE_…`).
    pub struct Modes {
        /// Accesses to missing pages.
        MISSING = raw::UFFDIO_REGISTER_MODE_MISSING;
        /// Writes to protected pages.
        WRITE_PROTECT = raw::UFFDIO_REGISTER_MODE_WP;
        /// Accesses to pages that are in the page cache but not mapped.
        MINOR = raw::UFFDIO_REGISTER_MODE_MINOR;
    }
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

/// Why a userfaultfd did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum UffdError {
    /// userfaultfd(2) failed.
    #[error("create a userfaultfd")]
    Create {
        /// The kernel's answer; EPERM: sysctl `vm.unprivileged_userfaultfd`.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("agree on userfaultfd features {features:#x}")]
    Handshake {
        /// Bits that were asked for.
        features: u64,
        /// The kernel's answer; EINVAL: a feature it does not have, or a second handshake.
        source: io::Error,
    },
    /// An operation on a range failed.
    #[error("{action} {range} by userfaultfd")]
    Range {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The pages.
        range: PageRun,
        /// The kernel's answer; EBUSY: another userfaultfd has it, ENOMEM: the process is gone.
        source: io::Error,
    },
    /// A page could not be installed, for a reason that repeating does not change.
    #[error("install {bytes} bytes at {addr} by userfaultfd")]
    Install {
        /// Where.
        addr: RemoteAddr,
        /// How many bytes.
        bytes: usize,
        /// The kernel's answer; EINVAL: not whole pages.
        source: io::Error,
    },
    /// read(2) failed.
    #[error("read events of a userfaultfd")]
    Read {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel sent what this program does not know, although nobody asked for it.
    #[error("unknown userfaultfd event {number:#x}")]
    UnknownEvent {
        /// `uffd_msg.event`.
        number: u8,
    },
}

impl UffdError {
    /// The process, or its address space, is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Range { source, .. } | Self::Install { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOMEM | libc::ESRCH))
            }
            _ => false,
        }
    }

    /// The range belongs to another userfaultfd.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Range { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

impl Uffd {
    /// Makes a userfaultfd for *this* process: close-on-exec, non-blocking, faults of user mode
    /// only. For probing and tests; that of another process comes by descriptor.
    ///
    /// # Safety
    /// Installing pages into, or dropping them from, memory that this program has references to
    /// breaks Rust's rules, and faults that nobody serves hang the program: the caller must only
    /// ever register memory that it handles by raw pointers.
    ///
    /// # Errors
    /// [`UffdError::Create`].
    pub unsafe fn for_this_process() -> Result<Self, UffdError> {
        let flags = UserfaultfdFlags::CLOEXEC
            | UserfaultfdFlags::NONBLOCK
            | UserfaultfdFlags::from_bits_retain(raw::UFFD_USER_MODE_ONLY);
        // SAFETY: the caller promises to keep to memory that is handled by raw pointers.
        let fd = unsafe { rustix::mm::userfaultfd(flags) };
        fd.map(|fd| Self { fd }).map_err(|errno| UffdError::Create {
            source: errno.into(),
        })
    }

    /// Agrees on features; needed once per userfaultfd, by whoever made it (CRIU does it for those
    /// it sends). Returns all features that the kernel has.
    ///
    /// # Errors
    /// [`UffdError::Handshake`].
    pub fn handshake(&self, features: Features) -> Result<Features, UffdError> {
        let mut api = uffdio_api {
            api: u64::from(API),
            features: features.bits(),
            ioctls: 0,
        };
        // SAFETY: the struct is UFFDIO_API's and holds no addresses.
        let result = unsafe { ioctl::call(&self.fd, UFFDIO_API, &mut api) };
        match result {
            Ok(_) => Ok(Features::from_bits(api.features)),
            Err(source) => Err(UffdError::Handshake {
                features: features.bits(),
                source,
            }),
        }
    }

    /// Registers a range, which may span several mappings, all of them fit for it.
    ///
    /// # Errors
    /// [`UffdError::Range`].
    pub fn register(&self, range: PageRun, modes: Modes) -> Result<(), UffdError> {
        let mut register = uffdio_register {
            range: raw_range(range),
            mode: modes.bits(),
            ioctls: 0,
        };
        // SAFETY: the struct is UFFDIO_REGISTER's; its address is in the address space of the
        // userfaultfd, whose memory is not Rust's (see `for_this_process`).
        let result = unsafe { ioctl::call(&self.fd, UFFDIO_REGISTER, &mut register) };
        range_result("register", range, result)
    }

    /// Gives a range back: what waits on it goes on, missing pages are zeros from now on, and
    /// write protection is lifted.
    ///
    /// # Errors
    /// [`UffdError::Range`].
    pub fn unregister(&self, range: PageRun) -> Result<(), UffdError> {
        // SAFETY: the struct is UFFDIO_UNREGISTER's; its address is in the address space of the
        // userfaultfd.
        let result = unsafe { ioctl::call(&self.fd, UFFDIO_UNREGISTER, &mut raw_range(range)) };
        range_result("unregister", range, result)
    }

    /// Another descriptor of the same userfaultfd; missing pages stay served while one of them is
    /// open.
    ///
    /// # Errors
    /// [`UffdError::Create`] when this process has no room for more descriptors.
    pub fn try_clone(&self) -> Result<Self, UffdError> {
        let fd = self.fd.try_clone();
        fd.map(|fd| Self { fd })
            .map_err(|source| UffdError::Create { source })
    }
}

impl From<OwnedFd> for Uffd {
    /// Takes a descriptor that somebody else made, for another process.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Uffd> for OwnedFd {
    fn from(uffd: Uffd) -> Self {
        uffd.fd
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

const fn raw_range(range: PageRun) -> uffdio_range {
    uffdio_range {
        start: range.start.addr().0,
        len: range.bytes(),
    }
}

fn range_result(
    action: &'static str,
    range: PageRun,
    result: io::Result<u32>,
) -> Result<(), UffdError> {
    match result {
        Ok(_) => Ok(()),
        Err(source) => Err(UffdError::Range {
            action,
            range,
            source,
        }),
    }
}
