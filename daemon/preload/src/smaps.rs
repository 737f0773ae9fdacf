//! `/proc/PID/smaps` from the daemon.
//!
//! CRIU needs the mappings and their flags, which stand in `smaps` only, among sums for which the
//! kernel looks at every page: 20 to 60 ms for each GiB of small pages, with the tree frozen. The
//! daemon may have the flags from before and give a file that has just the lines that CRIU reads.

use std::ffi::{CStr, c_char, c_int};

use crate::{ask, filter, guarded};

/// openat(2) for large files, which gives the daemon's file instead of `smaps` in the folder of
/// another process in `/proc`.
///
/// # Safety
/// As openat(2): `path` must be a string that ends with a NUL.
#[unsafe(no_mangle)]
#[expect(unreachable_pub, reason = "the dynamic linker reaches it")]
pub unsafe extern "C" fn openat64(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> c_int {
    let result = guarded(|| {
        if let Some(filter) = filter().filter(|_| !path.is_null()) {
            // SAFETY: not null, and so a string that ends with a NUL, says the caller.
            let name = unsafe { CStr::from_ptr(path) };
            let process = if name == c"smaps" {
                ask::process_of(folder, "")
            } else {
                None
            };
            if let Some(pid) = process.filter(|pid| *pid != std::process::id())
                && let Some(fd) = ask::smaps(filter.socket, pid)?
            {
                return Ok(i64::from(fd));
            }
        }
        let flags = flags | libc::O_LARGEFILE;
        // SAFETY: the arguments are those of our own caller, who keeps openat(2)'s contract.
        match unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode) } {
            -1 => Err(ask::errno()),
            fd => Ok(fd),
        }
    });
    c_int::try_from(result).unwrap_or(-1)
}
