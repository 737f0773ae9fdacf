//! Whether two processes share something (kcmp(2), `CONFIG_KCMP`).

use std::io;

use rustix::process::Pid;

/// `KCMP_VM` of `linux/kcmp.h`; not in libc.
const KCMP_VM: libc::c_int = 1;

/// Whether two processes run in the same address space, as a child of vfork(2) does until it
/// executes another program. Needs ptrace access to both.
///
/// # Errors
/// What the kernel said; ESRCH: one of them has ended, ENOSYS: it does not tell.
pub fn share_memory(one: Pid, other: Pid) -> io::Result<bool> {
    let (one, other) = (one.as_raw_nonzero().get(), other.as_raw_nonzero().get());
    // SAFETY: kcmp with KCMP_VM takes numbers only; the last two are not used.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0_u64, 0_u64) };
    if order < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(order == 0)
}
