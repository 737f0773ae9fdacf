//! Putting pages in place.

use std::io;

use lifeboat_proto::units::{PageIndex, PageRun, RemoteAddr};
use linux_raw_sys::general::{
    self as raw, uffdio_continue, uffdio_copy, uffdio_writeprotect, uffdio_zeropage,
};

use super::{API, Uffd, UffdError, range_result, raw_range};
use crate::ioctl;

const UFFDIO_WAKE: u32 = ioctl::ior(API, 0x02, size_of::<raw::uffdio_range>());
const UFFDIO_COPY: u32 = ioctl::iowr(API, 0x03, size_of::<uffdio_copy>());
const UFFDIO_ZEROPAGE: u32 = ioctl::iowr(API, 0x04, size_of::<uffdio_zeropage>());
const UFFDIO_WRITEPROTECT: u32 = ioctl::iowr(API, 0x06, size_of::<uffdio_writeprotect>());

const UFFDIO_CONTINUE: u32 = ioctl::iowr(API, 0x07, size_of::<uffdio_continue>());

const _: () = assert!(size_of::<uffdio_copy>() == 40);
const _: () = assert!(size_of::<uffdio_zeropage>() == 32);
const _: () = assert!(size_of::<uffdio_writeprotect>() == 24);
const _: () = assert!(size_of::<uffdio_continue>() == 32);
const _: () = assert!(UFFDIO_WAKE == linux_raw_sys::ioctl::UFFDIO_WAKE);
const _: () = assert!(UFFDIO_COPY == linux_raw_sys::ioctl::UFFDIO_COPY);
const _: () = assert!(UFFDIO_ZEROPAGE == linux_raw_sys::ioctl::UFFDIO_ZEROPAGE);
const _: () = assert!(UFFDIO_WRITEPROTECT == linux_raw_sys::ioctl::UFFDIO_WRITEPROTECT);

/// `UFFDIO_WRITEPROTECT_MODE_WP`; not in linux-raw-sys.
const PROTECT: u64 = 1;

/// How pages are installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Install {
    /// Threads that wait for these pages go on waiting until [`Uffd::wake`].
    pub keep_waiting: bool,
    /// The pages come write-protected (the range must be registered for that too).
    pub write_protected: bool,
}

/// How far an installation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Progress {
    /// Bytes that are in place, from the beginning; whole pages.
    pub bytes: usize,
    /// What stopped it. `None`: all is in place.
    pub obstacle: Option<Obstacle>,
}

/// What keeps the next page from being installed. See the rules of [`crate::uffd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// An event is queued (or a mapping is being changed): read events, then repeat.
    Again,
    /// The range is not, or not wholly, in one registered mapping (ENOENT).
    NotMapped,
    /// There is a page already (EEXIST).
    Exists,
    /// The process is gone (ESRCH).
    ProcessGone,
    /// No memory for a page: the machine, or the limit of a control group (ENOMEM, ENOSPC).
    NoSpace,
}

impl Uffd {
    /// Copies `bytes`, whole pages, to `addr`, and wakes who waits for them. Goes on after partial
    /// copies; never copies a page twice.
    ///
    /// # Errors
    /// [`UffdError::Install`]: not whole pages, or an address that cannot be. Everything a server
    /// must expect is an [`Obstacle`].
    pub fn copy(
        &self,
        addr: RemoteAddr,
        bytes: &[u8],
        install: Install,
    ) -> Result<Progress, UffdError> {
        let mut mode = 0;
        if install.keep_waiting {
            mode |= u64::from(raw::UFFDIO_COPY_MODE_DONTWAKE);
        }
        if install.write_protected {
            mode |= u64::from(raw::UFFDIO_COPY_MODE_WP);
        }
        install_all(addr, bytes.len(), |done| {
            let rest = &bytes[done..];
            let mut copy = uffdio_copy {
                dst: addr.0.saturating_add(done as u64),
                src: rest.as_ptr().expose_provenance() as u64,
                len: rest.len() as u64,
                mode,
                copy: 0,
            };
            // SAFETY: the struct is UFFDIO_COPY's; the source is valid for reads of its length;
            // the destination is in the address space of the userfaultfd, whose memory is not
            // Rust's (see `for_this_process`).
            let result = unsafe { ioctl::call(self, UFFDIO_COPY, &mut copy) };
            (copy.copy, result)
        })
    }

    /// Installs pages of zeros, which take no memory until written, and wakes who waits for them.
    ///
    /// # Errors
    /// [`UffdError::Install`].
    pub fn zero(&self, range: PageRun, install: Install) -> Result<Progress, UffdError> {
        let mode = match install.keep_waiting {
            true => u64::from(raw::UFFDIO_ZEROPAGE_MODE_DONTWAKE),
            false => 0,
        };
        let addr = range.start.addr();
        let length = usize::try_from(range.bytes()).unwrap_or(usize::MAX);
        install_all(addr, length, |done| {
            let done = done as u64;
            let start = addr.0.saturating_add(done);
            let range = raw::uffdio_range {
                start,
                len: range.bytes() - done,
            };
            let mut zero = uffdio_zeropage {
                range,
                mode,
                zeropage: 0,
            };
            // SAFETY: the struct is UFFDIO_ZEROPAGE's; the range is in the address space of the
            // userfaultfd, whose memory is not Rust's.
            let result = unsafe { ioctl::call(self, UFFDIO_ZEROPAGE, &mut zero) };
            (zero.zeropage, result)
        })
    }

    /// Wakes the threads that wait for pages of `range`; they look again.
    ///
    /// # Errors
    /// [`UffdError::Range`].
    pub fn wake(&self, range: PageRun) -> Result<(), UffdError> {
        // SAFETY: the struct is UFFDIO_WAKE's; the kernel does not touch the memory it names.
        let result = unsafe { ioctl::call(self, UFFDIO_WAKE, &mut raw_range(range)) };
        range_result("wake", range, result)
    }

    /// Whether `page` lies in a registered mapping of private anonymous memory; `None`: the mappings
    /// are being changed. Nothing is installed: the call asks for what the kernel does for shared
    /// memory only (`UFFDIO_CONTINUE`, kernel 5.13), and looks at which way it refuses.
    ///
    /// # Errors
    /// [`UffdError::Range`]; ESRCH: the process is gone.
    pub fn takes_pages(&self, page: PageIndex) -> Result<Option<bool>, UffdError> {
        let range = PageRun::new(page, 1);
        let mut resume = uffdio_continue {
            range: raw_range(range),
            mode: 0,
            mapped: 0,
        };
        // SAFETY: the struct is UFFDIO_CONTINUE's; its range is in the address space of the
        // userfaultfd, whose memory is not Rust's.
        let result = unsafe { ioctl::call(self, UFFDIO_CONTINUE, &mut resume) };
        match result {
            Ok(_) => Ok(Some(true)),
            Err(source) => match source.raw_os_error() {
                Some(libc::EINVAL | libc::EEXIST) => Ok(Some(true)),
                Some(libc::ENOENT) => Ok(Some(false)),
                Some(libc::EAGAIN) => Ok(None),
                _ => Err(UffdError::Range {
                    action: "probe",
                    range,
                    source,
                }),
            },
        }
    }

    /// Write-protects the pages of `range`, or lifts that and wakes who waits.
    ///
    /// Do not protect holes of memory that CRIU will look at: the markers that this leaves count
    /// as swapped pages there. [`crate::pagemap::Pagemap::scan_and_protect`] leaves none.
    ///
    /// # Errors
    /// [`UffdError::Range`]; ENOENT: not registered for write protection, EAGAIN: an event is
    /// queued.
    pub fn write_protect(&self, range: PageRun, protect: bool) -> Result<(), UffdError> {
        let mode = if protect { PROTECT } else { 0 };
        let mut protect = uffdio_writeprotect {
            range: raw_range(range),
            mode,
        };
        // SAFETY: the struct is UFFDIO_WRITEPROTECT's; protection does not change memory.
        let result = unsafe { ioctl::call(self, UFFDIO_WRITEPROTECT, &mut protect) };
        range_result("write-protect", range, result)
    }
}

/// Repeats `step`, which is told how many bytes are done and answers as the kernel does: bytes now
/// done (or a negative errno, which the result repeats) and the result of the call.
fn install_all(
    addr: RemoteAddr,
    length: usize,
    mut step: impl FnMut(usize) -> (i64, io::Result<u32>),
) -> Result<Progress, UffdError> {
    let mut done = 0;
    while done < length {
        let (count, result) = step(done);
        match (usize::try_from(count), result) {
            // A partial step is an EAGAIN with a count; the next one says what is in the way.
            (Ok(count), Ok(_)) if count > 0 => done += count,
            (Ok(count), Err(error)) if count > 0 && is_again(&error) => done += count,
            (_, Err(error)) => match obstacle(&error) {
                Some(obstacle) => {
                    return Ok(Progress {
                        bytes: done,
                        obstacle: Some(obstacle),
                    });
                }
                None => {
                    let addr = RemoteAddr(addr.0.saturating_add(done as u64));
                    let bytes = length - done;
                    return Err(UffdError::Install {
                        addr,
                        bytes,
                        source: error,
                    });
                }
            },
            (_, Ok(_)) => {
                let source = io::ErrorKind::WriteZero.into();
                return Err(UffdError::Install {
                    addr,
                    bytes: length - done,
                    source,
                });
            }
        }
    }
    Ok(Progress {
        bytes: done,
        obstacle: None,
    })
}

fn is_again(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

fn obstacle(error: &io::Error) -> Option<Obstacle> {
    Some(match error.raw_os_error()? {
        libc::EAGAIN => Obstacle::Again,
        libc::ENOENT => Obstacle::NotMapped,
        libc::EEXIST => Obstacle::Exists,
        libc::ESRCH => Obstacle::ProcessGone,
        libc::ENOMEM | libc::ENOSPC => Obstacle::NoSpace,
        _ => return None,
    })
}
