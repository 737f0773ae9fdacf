//! x86-64, 64-bit mode.

/// Registers of a thread (`PTRACE_GETREGS`).
pub(crate) type Registers = libc::user_regs_struct;

/// `syscall`.
pub(crate) const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// Code segment of 32-bit code.
const COMPAT_CODE_SEGMENT: u64 = 0x23;

/// `orig_rax` of a thread that is not in a system call: the kernel restarts nothing then.
const NO_SYSTEM_CALL: u64 = u64::MAX;

/// Largest errno in a result.
const ERRNO_MAX: i64 = 4095;

/// System calls that answer EINTR to any interruption, even one that no signal handler sees
/// (signal(7), "Interruption of system calls … by stop signals"; those on sockets do so when a
/// timeout is set). EINTR says that nothing was done, so that doing it again is the same.
const SILENTLY_INTERRUPTED: [libc::c_long; 16] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];

/// Whether the thread runs 64-bit code.
pub(crate) const fn is_native(registers: &Registers) -> bool {
    registers.cs != COMPAT_CODE_SEGMENT
}

pub(crate) const fn instruction_pointer(registers: &Registers) -> u64 {
    registers.rip
}

pub(crate) const fn set_instruction_pointer(registers: &mut Registers, address: u64) {
    registers.rip = address;
}

/// Registers that make the thread execute system call `number` by the instruction at `at`, and
/// not have anything restarted before.
pub(crate) const fn prepare_system_call(
    registers: &Registers,
    at: u64,
    number: libc::c_long,
    arguments: [u64; 6],
) -> Registers {
    let mut registers = *registers;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    registers.rip = at;
    registers.rax = number.cast_unsigned();
    registers.orig_rax = NO_SYSTEM_CALL;
    registers.rdi = first;
    registers.rsi = second;
    registers.rdx = third;
    registers.r10 = fourth;
    registers.r8 = fifth;
    registers.r9 = sixth;
    registers
}

/// At the entry of a system call: makes the kernel skip it.
pub(crate) const fn abort_system_call(registers: &mut Registers) {
    registers.orig_rax = NO_SYSTEM_CALL;
}

/// At the exit of a system call: its result, or its errno.
pub(crate) fn system_call_result(registers: &Registers) -> Result<u64, i32> {
    let result = registers.rax.cast_signed();
    match i32::try_from(-result) {
        Ok(errno) if (-ERRNO_MAX..0).contains(&result) => Err(errno),
        _ => Ok(registers.rax),
    }
}

/// Whether the thread was interrupted in a system call that will answer EINTR although it can be
/// repeated. All others the kernel restarts by itself.
pub(crate) fn interrupted_for_good(registers: &Registers) -> bool {
    registers.rax.cast_signed() == -i64::from(libc::EINTR)
        && SILENTLY_INTERRUPTED.contains(&registers.orig_rax.cast_signed())
}

/// Makes the thread execute the system call that it was interrupted in once more.
pub(crate) const fn repeat_system_call(registers: &mut Registers) {
    registers.rax = registers.orig_rax;
    registers.orig_rax = NO_SYSTEM_CALL;
    registers.rip = registers.rip.wrapping_sub(SYSCALL_INSTRUCTION.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(rax: i64, orig_rax: i64) -> Registers {
        // SAFETY: plain numbers, for which zeros are valid.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        registers.rax = rax.cast_unsigned();
        registers.orig_rax = orig_rax.cast_unsigned();
        registers.rip = 100;
        registers
    }

    #[test]
    fn results_and_errors_are_told_apart() {
        assert_eq!(system_call_result(&registers(7, 0)), Ok(7));
        assert_eq!(system_call_result(&registers(-1, 0)), Err(1));
        assert_eq!(system_call_result(&registers(-4095, 0)), Err(4095));
        assert_eq!(
            system_call_result(&registers(-4096, 0)),
            Ok(u64::MAX - 4095)
        );
    }

    #[test]
    fn only_what_can_be_repeated_is_repeated() {
        let mut waiting = registers(-4, libc::SYS_epoll_wait);
        assert!(interrupted_for_good(&waiting));
        repeat_system_call(&mut waiting);
        assert_eq!(
            (waiting.rax, waiting.rip),
            (libc::SYS_epoll_wait.cast_unsigned(), 98)
        );
        assert!(!interrupted_for_good(&waiting));
        // connect(2) would answer EALREADY the second time; nanosleep(2) the kernel restarts.
        assert!(!interrupted_for_good(&registers(-4, libc::SYS_connect)));
        assert!(!interrupted_for_good(&registers(
            -516,
            libc::SYS_epoll_wait
        )));
        assert!(!interrupted_for_good(&registers(-4, -1)));
    }
}
