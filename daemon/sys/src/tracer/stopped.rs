//! A thread in a stop: what it can be made to do, and how it is left.

use std::{fs, io, time::Instant};

use lifeboat_proto::units::RemoteAddr;

use super::{
    STOPS_MAX, TraceError, Tracer,
    ptrace::{self, Resume, Stop},
    refused, rseq, status_field,
};
use crate::{
    arch::{self, Registers},
    pidfd::Pidfd,
    vm::RemoteMemory,
};

/// The kernel's vdso has two or three pages.
const VDSO_BYTES_MAX: usize = 1 << 20;

/// A traced thread in a stop. Dropping it restores and releases it.
#[derive(Debug)]
pub struct Stopped<'process> {
    tracer: Tracer<'process>,
    memory: RemoteMemory,
    /// What the thread goes on with.
    original: Registers,
    /// Signals it blocked.
    blocked: u64,
    /// Where a system call instruction is, once found.
    instruction: Option<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the first stop, nothing changed.
    Untouched,
    /// In a stop at the border of a system call, with changed registers.
    Changed,
    /// Running with changed registers.
    Loose,
    /// No longer ours.
    Released,
}

impl<'process> Stopped<'process> {
    pub(super) fn new(tracer: Tracer<'process>) -> Result<Self, TraceError> {
        let tid = tracer.tid;
        let memory = match RemoteMemory::open(tracer.process.pid()) {
            Ok(memory) => memory,
            Err(error) => {
                let source = io::Error::other(error);
                return Err(release_with(
                    tid,
                    TraceError::Refused {
                        action: "open the memory of",
                        tid,
                        source,
                    },
                ));
            }
        };
        let read = ptrace::registers(tid)
            .and_then(|registers| Ok((registers, ptrace::blocked_signals(tid)?)));
        let (registers, blocked) = match read {
            Ok(read) => read,
            Err(source) => {
                return Err(release_with(
                    tid,
                    refused("read the registers of", tid, source),
                ));
            }
        };
        let mut stopped = Self {
            tracer,
            memory,
            original: registers,
            blocked,
            instruction: None,
            state: State::Untouched,
        };
        stopped.abort_sequence();
        Ok(stopped)
    }

    /// Number of the thread.
    #[must_use]
    pub const fn tid(&self) -> i32 {
        self.tracer.tid
    }

    /// Memory of the process.
    #[must_use]
    pub const fn memory(&self) -> &RemoteMemory {
        &self.memory
    }

    /// Has the thread do system call `number`. The inner result is that of the call, or its errno.
    ///
    /// The arguments must be plain numbers or addresses in the other process; nothing is copied.
    /// The call should be one that does not sleep.
    ///
    /// # Errors
    /// [`TraceError`]; after that, drop this.
    pub fn system_call(
        &mut self,
        number: libc::c_long,
        arguments: [u64; 6],
        deadline: Instant,
    ) -> Result<Result<u64, io::Error>, TraceError> {
        let tid = self.tid();
        let at = self.instruction()?;
        if self.state == State::Untouched {
            ptrace::set_blocked_signals(tid, u64::MAX)
                .map_err(|source| refused("block the signals of", tid, source))?;
            self.state = State::Changed;
        }
        let registers = arch::prepare_system_call(&self.original, at, number, arguments);
        ptrace::set_registers(tid, &registers)
            .map_err(|source| refused("set the registers of", tid, source))?;
        self.run_to_border(deadline)?;
        self.run_to_border(deadline)?;
        let registers = ptrace::registers(tid)
            .map_err(|source| refused("read the registers of", tid, source))?;
        Ok(arch::system_call_result(&registers).map_err(io::Error::from_raw_os_error))
    }

    /// Runs to the next entry or exit of a system call.
    fn run_to_border(&mut self, deadline: Instant) -> Result<(), TraceError> {
        let tid = self.tid();
        let mut signal = 0;
        for _ in 0..STOPS_MAX {
            self.state = State::Loose;
            ptrace::resume(tid, Resume::ToSystemCall, signal)
                .map_err(|source| refused("resume", tid, source))?;
            let stop = self.tracer.wait(Some(deadline))?;
            self.state = State::Changed;
            signal = match stop {
                Stop::SystemCall => return Ok(()),
                // The one signal that can be neither blocked nor handled; the stop that it makes
                // is resumed like any other, and goes on after detaching.
                Stop::Signal(libc::SIGSTOP) => libc::SIGSTOP,
                Stop::Signal(_) => {
                    return Err(TraceError::Unsuitable {
                        tid,
                        what: "got a fault",
                    });
                }
                Stop::Event | Stop::Other => 0,
            };
        }
        Err(TraceError::Unsuitable {
            tid,
            what: "does nothing but stop",
        })
    }

    /// Leaves a restartable sequence that the thread was interrupted in.
    fn abort_sequence(&mut self) {
        let at = arch::instruction_pointer(&self.original);
        let abort = ptrace::restartable_sequences(self.tid())
            .and_then(|area| rseq::abort_address(&self.memory, area, at));
        if let Some(abort) = abort {
            arch::set_instruction_pointer(&mut self.original, abort);
        }
    }

    /// Whether a signal waits that the thread will take: then EINTR is right. The thread's own
    /// set of blocked signals counts, not the one it may have put in place for the duration of its
    /// system call, which will look for itself.
    fn has_signal_to_take(&self) -> bool {
        let (process, tid) = (self.tracer.process, self.tid());
        let set = |name| {
            status_field(process, tid, name, |text| {
                u64::from_str_radix(text, 16).ok()
            })
        };
        match (set("SigPnd:"), set("ShdPnd:")) {
            (Some(own), Some(shared)) => (own | shared) & !self.blocked != 0,
            // Not known: what the kernel says stands.
            _ => true,
        }
    }

    /// Address of a system call instruction.
    fn instruction(&mut self) -> Result<u64, TraceError> {
        let tid = self.tid();
        if let Some(found) = self.instruction {
            return Ok(found);
        }
        if !arch::is_native(&self.original) {
            return Err(TraceError::Unsuitable {
                tid,
                what: "runs 32-bit code",
            });
        }
        if ptrace::dispatches_system_calls(tid) {
            return Err(TraceError::Unsuitable {
                tid,
                what: "intercepts its system calls",
            });
        }
        let what = "has no system call instruction in its vdso";
        let found = find_instruction(self.tracer.process, &self.memory);
        let found = found.ok_or(TraceError::Unsuitable { tid, what })?;
        self.instruction = Some(found);
        Ok(found)
    }

    /// Leaves the thread as it was, running.
    fn restore(&mut self) -> Result<(), TraceError> {
        let tid = self.tid();
        if self.state == State::Changed {
            self.interrupt_and_run(0)?;
        }
        while self.state == State::Loose {
            match self.tracer.wait(None)? {
                Stop::Event => self.state = State::Changed,
                Stop::SystemCall => {
                    // Harmless at an exit; at an entry it saves a call that nobody waits for.
                    if let Ok(mut registers) = ptrace::registers(tid) {
                        arch::abort_system_call(&mut registers);
                        ptrace::set_registers(tid, &registers).ok();
                    }
                    self.interrupt_and_run(0)?;
                }
                Stop::Signal(libc::SIGSTOP) => self.interrupt_and_run(libc::SIGSTOP)?,
                Stop::Signal(_) | Stop::Other => self.interrupt_and_run(0)?,
            }
        }
        let mut registers = self.original;
        // Now and not earlier, so that a signal that came meanwhile counts.
        if arch::interrupted_for_good(&registers) && !self.has_signal_to_take() {
            arch::repeat_system_call(&mut registers);
        }
        ptrace::set_registers(tid, &registers)
            .map_err(|source| refused("restore the registers of", tid, source))?;
        ptrace::set_blocked_signals(tid, self.blocked)
            .map_err(|source| refused("restore the signals of", tid, source))?;
        ptrace::resume(tid, Resume::Detached, 0)
            .map_err(|source| refused("detach from", tid, source))
    }

    /// The kernel restarts an interrupted system call only for a thread that comes out of its
    /// signal handling. An interruption leads through that before anything else is executed.
    fn interrupt_and_run(&mut self, signal: libc::c_int) -> Result<(), TraceError> {
        let tid = self.tid();
        ptrace::interrupt(tid).map_err(|source| refused("interrupt", tid, source))?;
        self.state = State::Loose;
        ptrace::resume(tid, Resume::Run, signal).map_err(|source| refused("resume", tid, source))
    }

    /// Restores and releases the thread now; dropping does the same without an answer.
    ///
    /// # Errors
    /// [`TraceError::Gone`] when it ended meanwhile.
    pub fn release(mut self) -> Result<(), TraceError> {
        self.release_once()
    }

    fn release_once(&mut self) -> Result<(), TraceError> {
        if self.state == State::Released {
            return Ok(());
        }
        if self.state == State::Loose {
            let tid = self.tid();
            ptrace::interrupt(tid).map_err(|source| refused("interrupt", tid, source))?;
        }
        let result = self.restore();
        self.state = State::Released;
        result
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // The only way this fails is that the thread is gone.
        self.release_once().ok();
    }
}

/// Gives up on a thread that nothing was done to.
fn release_with(tid: i32, error: TraceError) -> TraceError {
    // If this fails too, the thread is gone.
    ptrace::resume(tid, Resume::Detached, 0).ok();
    error
}

/// In the vdso, which every 64-bit process has, mapped executable and never changed.
fn find_instruction(process: &Pidfd, memory: &RemoteMemory) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid().as_raw_nonzero())).ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let size = usize::try_from(end.checked_sub(start)?).ok()?;
    if size > VDSO_BYTES_MAX {
        return None;
    }
    let mut bytes = vec![0; size];
    memory.read(RemoteAddr(start), &mut bytes).ok()?;
    let instruction = arch::SYSCALL_INSTRUCTION;
    let offset = bytes
        .windows(instruction.len())
        .position(|window| window == instruction)?;
    Some(start + offset as u64)
}
