//! What differs between architectures: registers of a stopped thread, and its system calls.

#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64.rs"]
mod imp;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("lifeboat-sys needs an arch module like arch/x86_64.rs for this architecture");

pub(crate) use self::imp::{
    Registers, SYSCALL_INSTRUCTION, abort_system_call, instruction_pointer, interrupted_for_good,
    is_native, prepare_system_call, repeat_system_call, set_instruction_pointer,
    system_call_result,
};
