//! A library that CRIU preloads (`LD_PRELOAD`): it hides memory from CRIU that Lifeboat captures
//! itself, so that the time of a freeze does not grow with memory.
//!
//! CRIU finds the pages to dump with the `PAGEMAP_SCAN` ioctl (Linux 6.7) or by reading
//! `/proc/PID/pagemap`, and pages of shared memory by looking for data and holes with lseek(2). All
//! of these go through this library, which asks the daemon once for each process and each object
//! which ranges are hidden, and lets the kernel be asked only about the rest. CRIU sees no pages in
//! the hidden ranges, and writes none.
//!
//! CRIU also reads `/proc/PID/smaps`, for which the kernel looks at every page of the process; the
//! daemon may give it another file instead ([`smaps`]).
//!
//! Guarantees:
//! - Without `LIFEBOAT_FILTER_FD` in the environment every call goes straight to the kernel.
//! - Whatever is not understood (a form of the ioctl that CRIU 4.2 does not use, a strange answer,
//!   a daemon that is gone) makes the call fail with an errno. CRIU then gives the dump up and the
//!   tree runs on. Nothing here ends or signals the process: panics are caught.
//! - The library starts no thread, registers no handler and owns no descriptor.
//!
//! CRIU stops the whole tree before it looks at the first process, so the first question also tells
//! the daemon that everything is frozen.
mod ask;
mod objects;
#[expect(dead_code, reason = "the hook's part of the protocol")]
mod protocol;
mod ranges;
mod rlimit;
mod scan;
mod smaps;

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::{c_int, c_ulong, c_void},
    panic,
    sync::{Mutex, OnceLock, PoisonError},
};

use ask::Owner;
use ranges::Hidden;

/// Size of an entry of `/proc/PID/pagemap`, in bytes.
const ENTRY_BYTES: u64 = 8;

/// Size of a page, in bytes.
const PAGE_BYTES: u64 = 4096;

/// The filter's state in this process.
struct Filter {
    socket: c_int,
    hidden: Mutex<HashMap<Owner, Hidden>>,
}

/// `None`: this process is not to be filtered.
fn filter() -> Option<&'static Filter> {
    static FILTER: OnceLock<Option<Filter>> = OnceLock::new();
    FILTER
        .get_or_init(|| {
            let socket = std::env::var(protocol::ENV_FILTER_FD).ok()?.parse().ok()?;
            Some(Filter {
                socket,
                hidden: Mutex::default(),
            })
        })
        .as_ref()
}

impl Filter {
    /// Runs `with` on the hidden ranges of `owner`, which are asked for once.
    fn with_hidden<T>(&self, owner: Owner, with: impl FnOnce(&Hidden) -> T) -> Result<T, c_int> {
        let mut known = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = match known.entry(owner) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(ask::hidden(self.socket, owner)?),
        };
        Ok(with(hidden))
    }
}

/// The other process that a descriptor of `/proc/PID/pagemap` is about. CRIU looks at its own
/// pagemap to learn what the kernel can do.
fn other_process(fd: c_int) -> Option<u32> {
    ask::process_of(fd, "/pagemap").filter(|pid| *pid != std::process::id())
}

/// Runs `call`; an error or a panic becomes -1 and an errno.
fn guarded(call: impl FnOnce() -> Result<i64, c_int> + panic::UnwindSafe) -> i64 {
    let errno = match panic::catch_unwind(call) {
        Ok(Ok(result)) => return result,
        Ok(Err(errno)) => errno,
        Err(_) => libc::EFAULT,
    };
    ask::set_errno(errno);
    -1
}

/// ioctl(2), filtered for `PAGEMAP_SCAN` on the pagemap of another process.
///
/// # Safety
/// As ioctl(2): `argument` must be what `request` takes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let result = guarded(|| {
        let Some(filter) = filter().filter(|_| request == scan::PAGEMAP_SCAN) else {
            return kernel_ioctl(fd, request, argument);
        };
        let Some(pid) = other_process(fd) else {
            return kernel_ioctl(fd, request, argument);
        };
        // SAFETY: with this request the argument is a pointer to a `ScanArgument`, says the caller.
        let scan = unsafe { argument.cast::<scan::ScanArgument>().as_mut() };
        let scan = scan.ok_or(libc::EFAULT)?;
        if scan::is_filtered(scan)? {
            filter.with_hidden(Owner::Process(pid), |hidden| {
                scan::filtered(fd, scan, hidden)
            })?
        } else {
            kernel_ioctl(fd, request, argument)
        }
    });
    c_int::try_from(result).unwrap_or(c_int::MAX)
}

fn kernel_ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> Result<i64, c_int> {
    // SAFETY: the arguments are those of our own caller, who keeps ioctl(2)'s contract.
    match unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) } {
        -1 => Err(ask::errno()),
        result => Ok(result),
    }
}

/// pread(2) with 64-bit offsets, filtered on the pagemap of another process.
///
/// # Safety
/// As pread(2): `buffer` must be writable for `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(
    fd: c_int,
    buffer: *mut c_void,
    count: usize,
    offset: i64,
) -> isize {
    let result = guarded(|| {
        // SAFETY: the arguments are those of our own caller, who keeps pread(2)'s contract.
        let got = unsafe { libc::syscall(libc::SYS_pread64, fd, buffer, count, offset) };
        if got == -1 {
            return Err(ask::errno());
        }
        let Some((filter, pid)) = filter().zip(other_process(fd)) else {
            return Ok(got);
        };
        let length = usize::try_from(got).map_err(|_| libc::EPROTO)?;
        // SAFETY: the kernel has just written this many bytes to the caller's buffer.
        let entries = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        let offset = u64::try_from(offset).map_err(|_| libc::EINVAL)?;
        filter.with_hidden(Owner::Process(pid), |hidden| {
            clear_entries(hidden, offset, entries)
        })??;
        Ok(got)
    });
    isize::try_from(result).unwrap_or(-1)
}

/// pread(2): on 64-bit machines the same as [`pread64`].
///
/// # Safety
/// As [`pread64`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(fd: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize {
    // SAFETY: the caller keeps the same contract.
    unsafe { pread64(fd, buffer, count, offset) }
}

/// Makes hidden pages look absent in what was read from a pagemap at `offset`.
fn clear_entries(hidden: &Hidden, offset: u64, entries: &mut [u8]) -> Result<(), c_int> {
    let length = u64::try_from(entries.len()).map_err(|_| libc::EINVAL)?;
    if !offset.is_multiple_of(ENTRY_BYTES) || !length.is_multiple_of(ENTRY_BYTES) {
        return Err(libc::EINVAL);
    }
    let address = |offset: u64| offset / ENTRY_BYTES * PAGE_BYTES;
    let position = |address: u64| address / PAGE_BYTES * ENTRY_BYTES - offset;
    for range in hidden.hidden(address(offset)..address(offset + length)) {
        let start = usize::try_from(position(range.start)).map_err(|_| libc::EINVAL)?;
        let end = usize::try_from(position(range.end)).map_err(|_| libc::EINVAL)?;
        entries.get_mut(start..end).ok_or(libc::EINVAL)?.fill(0);
    }
    Ok(())
}

/// Keeps the library to CRIU itself: what CRIU starts (the hook, nft, tar) shall not load it.
extern "C" fn forget_preload() {
    if filter().is_some() {
        // SAFETY: the name ends with a NUL; the loader runs this before there are other threads.
        unsafe { libc::unsetenv(c"LD_PRELOAD".as_ptr()) };
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static FORGET_PRELOAD: extern "C" fn() = forget_preload;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_pages_look_absent_in_a_pagemap() {
        let hidden = Hidden::new(vec![0x2000..0x4000, 0x5000..0x6000]).expect("in order");
        let mut entries = [0xff_u8; 48];
        clear_entries(&hidden, 8, &mut entries).expect("whole entries");
        let present: Vec<bool> = entries.chunks(8).map(|entry| entry == [0xff; 8]).collect();
        assert_eq!(present, [true, false, false, true, false, true]);
        assert_eq!(clear_entries(&hidden, 4, &mut entries), Err(libc::EINVAL));
        assert_eq!(
            clear_entries(&hidden, 8, &mut entries[..12]),
            Err(libc::EINVAL)
        );
    }
}
