//! Signals as a descriptor, and what a hold does with each.
//!
//! Nothing interrupts a hold: every signal that can be caught is blocked and read from a
//! signalfd(2). What somebody sends to the hold is meant for the workload and goes on to its first
//! process; what the terminal sends (Ctrl-C) went to a whole process group and goes on to one.

use std::io;

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};

/// `si_code` of signals that the kernel sent, such as those of a terminal's keys (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// Signals that stay as they are: faults of this process (blocking them would hide them), and the
/// one that keeps background processes from their terminal.
const LEFT_ALONE: &[Signal] = &[
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGTTIN,
];

/// All signals of this process.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

/// What a signal means to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A child has ended.
    Child,
    /// The terminal's size has changed.
    Window,
    /// The user wants to stop the job (Ctrl-Z).
    Stop {
        /// Whether the terminal sent it to the whole process group.
        group: bool,
    },
    /// For the workload.
    Forward {
        /// Its number.
        number: i32,
        /// Whether the terminal sent it to the whole process group.
        group: bool,
    },
    /// Of no concern.
    Nothing,
}

impl Signals {
    /// Blocks the signals of this thread, which must be the only one, and reads them from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn take_over() -> io::Result<Self> {
        let mut all = SigSet::all();
        for signal in LEFT_ALONE {
            all.remove(*signal);
        }
        all.thread_block()?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd })
    }

    /// The descriptor, for polling.
    #[must_use]
    pub const fn fd(&self) -> &SignalFd {
        &self.fd
    }

    /// The next signal that came, if any.
    ///
    /// # Errors
    /// What read(2) reports.
    pub fn next_signal(&self) -> io::Result<Option<Meaning>> {
        let Some(info) = self.fd.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        Ok(Some(meaning(number, info.ssi_code == SI_KERNEL)))
    }
}

fn meaning(number: i32, group: bool) -> Meaning {
    match Signal::try_from(number) {
        Ok(Signal::SIGCHLD) => Meaning::Child,
        Ok(Signal::SIGWINCH) => Meaning::Window,
        Ok(Signal::SIGTSTP) => Meaning::Stop { group },
        Ok(Signal::SIGTTOU | Signal::SIGPIPE | Signal::SIGURG) | Err(_) => Meaning::Nothing,
        Ok(_) => Meaning::Forward { number, group },
    }
}

/// Whether a signal asks a program to end, so that a hold without a workload ends.
#[must_use]
pub fn asks_to_end(number: i32) -> bool {
    let ends = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    ends.into_iter().any(|signal| signal as i32 == number)
}

/// Sends a signal to a process or to the process group that it leads. That the process has ended
/// meanwhile is not an error: whoever reaps it will know.
///
/// # Errors
/// When there is no such signal or it may not be sent.
pub fn send(pid: i32, number: i32, group: bool) -> io::Result<()> {
    let signal = Signal::try_from(number)?;
    let pid = Pid::from_raw(pid);
    let result = if group {
        killpg(pid, signal)
    } else {
        kill(pid, signal)
    };
    match result {
        Err(Errno::ESRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// Stops this process until somebody continues it.
///
/// # Errors
/// What the kernel says. PID 1 of a namespace cannot stop itself, which is not an error.
pub fn stop_self() -> io::Result<()> {
    Ok(nix::sys::signal::raise(Signal::SIGSTOP)?)
}
