//! ptrace(2) and the waiting that belongs to it, one request per function. All of it works only
//! from the thread that seized.

use std::{
    io, mem,
    ptr::{null_mut, without_provenance_mut},
};

use libc::{c_int, c_uint, c_void, pid_t};
use linux_raw_sys::ptrace::{ptrace_rseq_configuration, ptrace_sud_config};

use crate::arch::Registers;

/// `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: c_int = 128;

/// What `PTRACE_O_TRACESYSGOOD` adds to SIGTRAP at the borders of system calls.
const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;

/// Size of the kernel's signal set, in bytes.
const SIGNAL_SET_BYTES: usize = size_of::<u64>();

/// What a traced thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It reached a point where it can be left in any state (interruption, or job control).
    Event,
    /// It is at the entry or the exit of a system call.
    SystemCall,
    /// It is about to get this signal.
    Signal(c_int),
    /// Something that was not asked for.
    Other,
}

/// How a stopped thread goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resume {
    /// To the next signal or event.
    Run,
    /// To the next border of a system call.
    ToSystemCall,
    /// Without being traced.
    Detached,
}

pub(super) fn seize(tid: pid_t, options: c_int) -> io::Result<()> {
    let data = without_provenance_mut::<c_void>(usize::try_from(options).unwrap_or(0));
    // SAFETY: PTRACE_SEIZE takes option bits in place of a pointer.
    let result = unsafe { libc::ptrace(request(libc::PTRACE_SEIZE), tid, NULL, data) };
    check(result)
}

pub(super) fn interrupt(tid: pid_t) -> io::Result<()> {
    // SAFETY: PTRACE_INTERRUPT takes no pointers.
    let result = unsafe { libc::ptrace(request(libc::PTRACE_INTERRUPT), tid, NULL, NULL) };
    check(result)
}

/// Lets the thread go on with `signal` (0: none).
pub(super) fn resume(tid: pid_t, how: Resume, signal: c_int) -> io::Result<()> {
    let number = match how {
        Resume::Run => libc::PTRACE_CONT,
        Resume::ToSystemCall => libc::PTRACE_SYSCALL,
        Resume::Detached => libc::PTRACE_DETACH,
    };
    let data = without_provenance_mut::<c_void>(usize::try_from(signal).unwrap_or(0));
    // SAFETY: these requests take a signal number in place of a pointer.
    let result = unsafe { libc::ptrace(request(number), tid, NULL, data) };
    check(result)
}

pub(super) fn registers(tid: pid_t) -> io::Result<Registers> {
    // SAFETY: plain numbers, for which zeros are valid.
    let mut registers: Registers = unsafe { mem::zeroed() };
    let data: *mut c_void = (&raw mut registers).cast();
    // SAFETY: PTRACE_GETREGS writes one `Registers` to `data`, which is valid for that.
    let result = unsafe { libc::ptrace(request(libc::PTRACE_GETREGS), tid, NULL, data) };
    check(result).map(|()| registers)
}

pub(super) fn set_registers(tid: pid_t, registers: &Registers) -> io::Result<()> {
    let data: *const c_void = (&raw const *registers).cast();
    // SAFETY: PTRACE_SETREGS reads one `Registers` from `data`.
    let result = unsafe { libc::ptrace(request(libc::PTRACE_SETREGS), tid, NULL, data) };
    check(result)
}

pub(super) fn blocked_signals(tid: pid_t) -> io::Result<u64> {
    let mut set = 0_u64;
    let size = without_provenance_mut::<c_void>(SIGNAL_SET_BYTES);
    let data: *mut c_void = (&raw mut set).cast();
    // SAFETY: PTRACE_GETSIGMASK writes a set of the given size to `data`, which is valid for that.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, tid, size, data) };
    check(result).map(|()| set)
}

pub(super) fn set_blocked_signals(tid: pid_t, set: u64) -> io::Result<()> {
    let size = without_provenance_mut::<c_void>(SIGNAL_SET_BYTES);
    let data: *const c_void = (&raw const set).cast();
    // SAFETY: PTRACE_SETSIGMASK reads a set of the given size from `data`.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, tid, size, data) };
    check(result)
}

/// Address of the thread's `struct rseq` (kernel 5.13). `None`: it has none, or cannot be asked.
pub(super) fn restartable_sequences(tid: pid_t) -> Option<u64> {
    let mut configuration = ptrace_rseq_configuration {
        rseq_abi_pointer: 0,
        rseq_abi_size: 0,
        signature: 0,
        flags: 0,
        pad: 0,
    };
    let size = without_provenance_mut::<c_void>(size_of_val(&configuration));
    let data: *mut c_void = (&raw mut configuration).cast();
    // SAFETY: the request writes at most `size` bytes to `data`, which is valid for that.
    let result = unsafe { libc::ptrace(libc::PTRACE_GET_RSEQ_CONFIGURATION, tid, size, data) };
    (result > 0 && configuration.rseq_abi_pointer != 0).then_some(configuration.rseq_abi_pointer)
}

/// Whether the thread has its own system calls turned into signals (kernel 6.4; before, it cannot
/// be asked).
pub(super) fn dispatches_system_calls(tid: pid_t) -> bool {
    let mut configuration = ptrace_sud_config {
        mode: 0,
        selector: 0,
        offset: 0,
        len: 0,
    };
    let size = without_provenance_mut::<c_void>(size_of_val(&configuration));
    let data: *mut c_void = (&raw mut configuration).cast();
    let request = libc::PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG;
    // SAFETY: the request writes `size` bytes to `data`, which is valid for that.
    let result = unsafe { libc::ptrace(request, tid, size, data) };
    result == 0 && configuration.mode != 0
}

/// Waits for what the thread does next. `None`: the call was interrupted. ESRCH: the thread ended;
/// whoever its parent is still learns of that, as nothing is taken away from a zombie here.
pub(super) fn wait_stop(tid: pid_t) -> io::Result<Option<Stop>> {
    let look = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
    let Some(info) = wait_id(tid, look)? else {
        return Ok(None);
    };
    if matches!(
        info.si_code,
        libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED
    ) {
        return Err(ended());
    }
    let Some(info) = wait_id(tid, libc::WSTOPPED | libc::WNOHANG)? else {
        return Ok(None);
    };
    if info.si_code == 0 {
        // Killed between the two looks; the next one tells.
        return Ok(None);
    }
    // SAFETY: the kernel filled this in as that of a child.
    let status = unsafe { info.si_status() };
    let (signal, event) = (status & 0xff, status >> 8);
    Ok(Some(match (signal, event) {
        (_, EVENT_STOP) => Stop::Event,
        (SYSCALL_STOP, 0) => Stop::SystemCall,
        (signal, 0) => Stop::Signal(signal),
        _ => Stop::Other,
    }))
}

/// `None`: interrupted.
fn wait_id(tid: pid_t, options: c_int) -> io::Result<Option<libc::siginfo_t>> {
    let options = options | libc::__WALL | libc::__WNOTHREAD;
    let id = libc::id_t::try_from(tid).unwrap_or(0);
    // SAFETY: plain numbers, for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: waitid(2) writes one siginfo to `info`, which is valid for that.
    let result = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, options) };
    if result == 0 {
        return Ok(Some(info));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(None),
        Some(libc::ECHILD) => Err(ended()),
        _ => Err(error),
    }
}

const NULL: *mut c_void = null_mut();

/// The names have different types in libc.
const fn request(number: c_uint) -> c_uint {
    number
}

fn ended() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
