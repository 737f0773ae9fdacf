//! Resource limits of other users' processes, for a CRIU without `CAP_SYS_RESOURCE`.
//!
//! The kernel tells the limits of another user's process by prlimit(2) only to holders of that
//! capability, which container runtimes and hardened machines take away, but tells everybody by
//! `/proc/PID/limits`. CRIU asks with `syscall(SYS_prlimit64, …)`; when that is refused, the answer is
//! taken from the file. Every other system call goes straight to the kernel, as in the C library.
//! Setting limits is never touched.

#[cfg(target_arch = "x86_64")]
use std::arch::naked_asm;
use std::{
    ffi::{c_int, c_long},
    fs, panic,
};

/// Columns of `/proc/PID/limits`: `"%-25s %-20s %-20s %-10s\n"` (`fs/proc/base.c`).
const SOFT: std::ops::Range<usize> = 26..46;
const HARD: std::ops::Range<usize> = 47..67;

/// Stands in for the C library's `syscall`, instruction for instruction, but for one number: a frame
/// of its own would not do for calls that return twice.
///
/// # Safety
/// As syscall(2).
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn syscall() -> c_long {
    naked_asm!(
        "cmp rdi, {prlimit64}",
        "je {limits}",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, rcx",
        "mov r10, r8",
        "mov r8, r9",
        "mov r9, [rsp + 8]",
        "syscall",
        "cmp rax, -4095",
        "jae 2f",
        "ret",
        "2:",
        "neg rax",
        "mov rdi, rax",
        "jmp {failed}",
        prlimit64 = const libc::SYS_prlimit64,
        limits = sym limits,
        failed = sym failed,
    )
}

/// Sets errno, as the C library does after a failed system call.
extern "C" fn failed(errno: c_int) -> c_long {
    // SAFETY: the C library's errno of this thread is always there.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; it is an int that only this thread writes.
    unsafe { *place = errno };
    -1
}

/// `syscall(SYS_prlimit64, pid, resource, new, old)`.
extern "C" fn limits(
    _number: c_long,
    pid: libc::pid_t,
    resource: c_int,
    new: *const libc::rlimit64,
    old: *mut libc::rlimit64,
) -> c_long {
    let resource_number = resource.cast_unsigned();
    // SAFETY: the arguments are the caller's own, passed on unchanged.
    let result = unsafe { libc::prlimit64(pid, resource_number, new, old) };
    if result == 0 {
        return 0;
    }
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EPERM);
    if errno != libc::EPERM || !new.is_null() || old.is_null() || super::filter().is_none() {
        return failed(errno);
    }
    match panic::catch_unwind(|| from_file(pid, resource)) {
        Ok(Some(limit)) => {
            // SAFETY: the caller passed room for a limit, as prlimit(2) asks for.
            unsafe { old.write(limit) };
            0
        }
        _ => failed(errno),
    }
}

fn from_file(pid: libc::pid_t, resource: c_int) -> Option<libc::rlimit64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    parse(&text, usize::try_from(resource).ok()?)
}

/// The limit with the number `resource`: the lines are in the order of the numbers, after a heading.
fn parse(text: &str, resource: usize) -> Option<libc::rlimit64> {
    let line = text.lines().nth(resource.checked_add(1)?)?;
    let value = |columns| {
        let word = line.get(columns).map(str::trim)?;
        if word == "unlimited" {
            Some(libc::RLIM64_INFINITY)
        } else {
            word.parse().ok()
        }
    };
    Some(libc::rlimit64 {
        rlim_cur: value(SOFT)?,
        rlim_max: value(HARD)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_the_system_call_says() {
        let own = libc::pid_t::try_from(std::process::id()).unwrap();
        for resource in 0..16_i32 {
            let mut told = libc::rlimit64 {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: there is room for a limit.
            let result = unsafe {
                libc::prlimit64(
                    own,
                    resource.cast_unsigned(),
                    std::ptr::null(),
                    &raw mut told,
                )
            };
            assert_eq!(result, 0);
            let read = from_file(own, resource).unwrap();
            assert_eq!(
                (read.rlim_cur, read.rlim_max),
                (told.rlim_cur, told.rlim_max)
            );
        }
        assert!(from_file(own, 99).is_none());
    }
}
