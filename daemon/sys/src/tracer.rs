//! Stopping one thread of another process, having it do system calls, and leaving it as if nothing
//! had happened (ptrace(2), `PTRACE_SEIZE`).
//!
//! Guarantees:
//! - A system call that the thread sleeps in goes on as before. Those that the kernel answers with
//!   EINTR in such a case, although no signal handler ran, are repeated (their timeout starts
//!   anew).
//! - Signals that arrive meanwhile are delivered afterwards. Signal dispositions are never changed,
//!   since nothing here works by signals.
//! - A restartable sequence is aborted, as by any interruption.
//! - Every wait has a deadline, with one exception: a thread whose registers were changed is never
//!   left that way, however long it takes to stop it again. [`Stopped`] waits for that when it is
//!   dropped; [`crate::remote`] does it on a thread of its own.
//!
//! ptrace is bound to the calling thread: [`Tracer`] and [`Stopped`] cannot be sent. If that thread
//! ends, the kernel lets the tracee go. The process must nowhere wait for "any child"
//! (`waitpid(-1)`), which would take away these stops.
//!
//! If this process is killed within the few microseconds of an injected system call, the tracee
//! goes on with the registers of that call, and most likely crashes.

mod ptrace;
mod rseq;

use std::{
    fs, io,
    marker::PhantomData,
    thread,
    time::{Duration, Instant},
};

use lifeboat_proto::units::RemoteAddr;
use rustix::process::Pid;

use self::ptrace::{Resume, Stop};
use crate::{
    arch::{self, Registers},
    pidfd::Pidfd,
    vm::RemoteMemory,
    wait,
};

/// How often a stop is looked for without a pause: it usually comes within microseconds.
const EAGER_LOOKS: u32 = 64;

/// Shortest and longest pause between looks. The kernel has no event to wait for here: a pidfd
/// tells of the end of a process only.
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(4);

/// Stops the thread must go through before it is where it is wanted; more than that is not a
/// thread that behaves.
const STOPS_MAX: u32 = 1000;

/// Why a thread could not be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The thread has ended.
    #[error("thread {tid} is gone")]
    Gone {
        /// Number of the thread.
        tid: i32,
    },
    /// Somebody else traces the thread (a debugger, strace, CRIU).
    #[error("thread {tid} is already traced by process {by}")]
    AlreadyTraced {
        /// Number of the thread.
        tid: i32,
        /// Number of the tracer.
        by: i32,
    },
    /// The kernel refused.
    #[error("{action} thread {tid}")]
    Refused {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Number of the thread.
        tid: i32,
        /// The kernel's answer; EPERM: no ptrace access.
        source: io::Error,
    },
    /// The thread did not stop in time: it is in an uninterruptible sleep, or frozen.
    #[error("thread {tid} did not stop in time")]
    Deadline {
        /// Number of the thread.
        tid: i32,
    },
    /// The thread is one that cannot be made to do system calls.
    #[error("thread {tid} {what}")]
    Unsuitable {
        /// Number of the thread.
        tid: i32,
        /// Why not, as the rest of a sentence.
        what: &'static str,
    },
}

impl TraceError {
    /// Another thread of the same process may do instead.
    #[must_use]
    pub const fn concerns_this_thread_only(&self) -> bool {
        matches!(
            self,
            Self::Gone { .. } | Self::Deadline { .. } | Self::Unsuitable { .. }
        )
    }
}

/// A thread that is traced by the calling thread, and runs.
#[derive(Debug)]
pub struct Tracer<'process> {
    process: &'process Pidfd,
    tid: i32,
    _bound_to_thread: PhantomData<*mut ()>,
}

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

impl<'process> Tracer<'process> {
    /// Begins to trace thread `tid` of `process`, without stopping it. Its seccomp filters are
    /// suspended while traced, if this process may do that (`CAP_SYS_ADMIN`).
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn seize(process: &'process Pidfd, tid: Pid) -> Result<Self, TraceError> {
        let number = tid.as_raw_nonzero().get();
        let options = libc::PTRACE_O_TRACESYSGOOD;
        let seized = match ptrace::seize(number, options | libc::PTRACE_O_SUSPEND_SECCOMP) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                ptrace::seize(number, options)
            }
            other => other,
        };
        if let Err(source) = seized {
            return Err(not_seized(process, number, source));
        }
        let tracer = Self {
            process,
            tid: number,
            _bound_to_thread: PhantomData,
        };
        // The number was that of the right thread if its process still lives and has it.
        let path = format!("/proc/{}/task/{number}", process.pid().as_raw_nonzero());
        if fs::exists(path).unwrap_or(false) && process.is_alive() {
            Ok(tracer)
        } else {
            Err(TraceError::Gone { tid: number })
        }
    }

    /// Stops the thread.
    ///
    /// # Errors
    /// [`TraceError`]. After [`TraceError::Deadline`] the thread stays traced, and will stop, until
    /// the calling thread ends.
    pub fn stop(self, deadline: Instant) -> Result<Stopped<'process>, TraceError> {
        let tid = self.tid;
        ptrace::interrupt(tid).map_err(|source| refused("interrupt", tid, source))?;
        for _ in 0..STOPS_MAX {
            let signal = match self.wait(Some(deadline))? {
                Stop::Event => return Stopped::new(self),
                // It may have been about to get a signal. Any stop uses up the interruption.
                Stop::Signal(signal) => signal,
                Stop::SystemCall | Stop::Other => 0,
            };
            ptrace::interrupt(tid).map_err(|source| refused("interrupt", tid, source))?;
            ptrace::resume(tid, Resume::Run, signal)
                .map_err(|source| refused("resume", tid, source))?;
        }
        Err(TraceError::Unsuitable {
            tid,
            what: "does nothing but get signals",
        })
    }

    /// Waits for the next stop; without a deadline until it comes or the thread ends.
    fn wait(&self, deadline: Option<Instant>) -> Result<Stop, TraceError> {
        let mut looks = 0_u32;
        let mut pause = PAUSE_MIN;
        loop {
            match ptrace::poll_stop(self.tid) {
                Ok(Some(stop)) => return Ok(stop),
                Ok(None) => {}
                Err(source) => return Err(refused("wait for", self.tid, source)),
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Err(TraceError::Deadline { tid: self.tid });
            }
            looks = looks.saturating_add(1);
            if looks < EAGER_LOOKS {
                thread::yield_now();
            } else {
                // Ends early when the process does. Its errors show at the next look.
                wait::readable(self.process, now + pause).ok();
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

impl<'process> Stopped<'process> {
    fn new(tracer: Tracer<'process>) -> Result<Self, TraceError> {
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

/// The kernel answers EPERM to more than missing permission.
fn not_seized(process: &Pidfd, tid: i32, source: io::Error) -> TraceError {
    let tracer = status_field(process, tid, "TracerPid:", |text| text.parse().ok());
    let state = status_field(process, tid, "State:", |text| text.chars().next());
    match (tracer, state) {
        (Some(by), _) if by > 0 => TraceError::AlreadyTraced { tid, by },
        (_, None | Some('Z' | 'X')) => TraceError::Gone { tid },
        _ => refused("seize", tid, source),
    }
}

/// Gives up on a thread that nothing was done to.
fn release_with(tid: i32, error: TraceError) -> TraceError {
    // If this fails too, the thread is gone.
    ptrace::resume(tid, Resume::Detached, 0).ok();
    error
}

fn refused(action: &'static str, tid: i32, source: io::Error) -> TraceError {
    if source.raw_os_error() == Some(libc::ESRCH) {
        TraceError::Gone { tid }
    } else {
        TraceError::Refused {
            action,
            tid,
            source,
        }
    }
}

/// A field of `/proc/PID/task/TID/status`.
fn status_field<T>(
    process: &Pidfd,
    tid: i32,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let path = format!("/proc/{}/task/{tid}/status", process.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    parse(line.trim())
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

/// The kernel's vdso has two or three pages.
const VDSO_BYTES_MAX: usize = 1 << 20;
