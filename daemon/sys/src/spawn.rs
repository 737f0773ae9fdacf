//! What a child process gets besides its command line: descriptors under fixed numbers, a session,
//! a terminal, clean signals, namespaces.
//!
//! [`ChildSetup`] is applied to a [`std::process::Command`] (tokio's gives access to one through
//! `as_std_mut`). It is self-contained: the command owns the descriptors, so the caller can forget
//! them. In the child, between fork and exec, only system calls run: no allocation, no lock, no
//! formatting. What fails there makes `Command::spawn` return the error.
//!
//! Order in the child: parent-death signal, signals, session, terminal, namespaces, umask,
//! descriptors.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use rustix::process::Signal;

/// Most descriptors a child can be given.
pub const PASSED_MAX: usize = 32;

/// First number a descriptor can have in the child; lower ones are [`Command`]'s stdin, stdout and
/// stderr.
pub const FIRST_FD: RawFd = 3;

/// Largest number a descriptor can have in the child, so that it is below any sensible
/// `RLIMIT_NOFILE` and leaves room above it.
pub const LAST_FD: RawFd = 511;

/// Highest signal number of the kernel.
const SIGNAL_MAX: libc::c_int = 64;

/// Namespaces to enter, as a child sees them.
#[derive(Debug)]
pub struct EnteredNamespace {
    /// A descriptor of `/proc/PID/ns/…`, or a pidfd.
    pub fd: OwnedFd,
    /// `CLONE_NEW…` flags (setns(2)); 0 with a namespace descriptor means whatever it is.
    pub kinds: libc::c_int,
}

/// Why a setup was refused before anything was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A number outside of [`FIRST_FD`]..=[`LAST_FD`].
    #[error("descriptor number {0} for a child is not between {FIRST_FD} and {LAST_FD}")]
    Number(RawFd),
    /// The same number twice.
    #[error("descriptor number {0} is given to the child twice")]
    Twice(RawFd),
    /// More than [`PASSED_MAX`].
    #[error("more than {PASSED_MAX} descriptors for one child")]
    TooMany,
    /// The number could not be set aside in this process.
    #[error("reserve descriptor number {number}")]
    Reserve {
        /// The number in the child.
        number: RawFd,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What to set up in a child. Nothing is changed unless asked for.
#[derive(Debug, Default)]
pub struct ChildSetup {
    fds: Vec<Passed>,
    session_leader: bool,
    parent_death_signal: Option<libc::c_int>,
    default_signals: bool,
    umask: Option<libc::mode_t>,
    close_others: bool,
    subreaper: bool,
    controlling_terminal: Option<OwnedFd>,
    namespaces: Vec<EnteredNamespace>,
}

#[derive(Debug)]
struct Passed {
    source: OwnedFd,
    number: RawFd,
    /// Where the child keeps the source while it moves descriptors about.
    parked: RawFd,
    /// Keeps `number` taken in this process, so that the pipe on which `Command` learns of a
    /// failed exec cannot get it. `None`: something else has it.
    _reserved: Option<OwnedFd>,
}

impl ChildSetup {
    /// A setup that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `source` to the child under `number`. Nothing changes in this process: the source
    /// stays close-on-exec, so that children started elsewhere do not get it.
    ///
    /// If `number` is in use in this process by somebody else, that descriptor must stay open
    /// until the child is started.
    ///
    /// # Errors
    /// [`SpawnError`]: the number is out of range, given twice, or cannot be reserved.
    pub fn pass_fd(&mut self, source: OwnedFd, number: RawFd) -> Result<&mut Self, SpawnError> {
        if !(FIRST_FD..=LAST_FD).contains(&number) {
            return Err(SpawnError::Number(number));
        }
        if self.fds.iter().any(|passed| passed.number == number) {
            return Err(SpawnError::Twice(number));
        }
        if self.fds.len() == PASSED_MAX {
            return Err(SpawnError::TooMany);
        }
        let reserved =
            reserve(&source, number).map_err(|source| SpawnError::Reserve { number, source })?;
        self.fds.push(Passed {
            source,
            number,
            parked: -1,
            _reserved: reserved,
        });
        Ok(self)
    }

    /// Makes the child the leader of a new session without a terminal (setsid(2)).
    pub fn session_leader(&mut self) -> &mut Self {
        self.session_leader = true;
        self
    }

    /// Makes `terminal` the controlling terminal of the child, which becomes a session leader.
    pub fn controlling_terminal(&mut self, terminal: OwnedFd) -> &mut Self {
        self.controlling_terminal = Some(terminal);
        self.session_leader()
    }

    /// Sends `signal` to the child when the *thread* that starts it ends (`PR_SET_PDEATHSIG`,
    /// prctl(2)): start such children from a thread that lives long enough, not from a pool. If
    /// this process is gone before the child gets that far, starting fails.
    ///
    /// The signal is forgotten when the child executes a set-user-ID program.
    pub fn parent_death_signal(&mut self, signal: Signal) -> &mut Self {
        self.parent_death_signal = Some(signal.as_raw());
        self
    }

    /// Starts the child with every signal's default action and none blocked, whatever this
    /// process ignores or blocks (Rust programs ignore SIGPIPE).
    pub fn default_signals(&mut self) -> &mut Self {
        self.default_signals = true;
        self
    }

    /// Sets the child's file mode creation mask (umask(2)).
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.umask = Some(mask & 0o777);
        self
    }

    /// Enters namespaces, in the order given (setns(2)). A pid namespace entered this way is only
    /// that of the child's own children: to start the child itself in one, see
    /// [`crate::namespace::with_children_in`].
    pub fn enter(&mut self, namespace: EnteredNamespace) -> &mut Self {
        self.namespaces.push(namespace);
        self
    }

    /// Closes everything in the child but its standard streams and what is passed: descriptors that
    /// this process was itself given without close-on-exec do not leak (close_range(2), kernel
    /// 5.11).
    pub fn close_others(&mut self) -> &mut Self {
        self.close_others = true;
        self
    }

    /// Makes the child the parent of all its descendants whose own parents end
    /// (`PR_SET_CHILD_SUBREAPER`, prctl(2), kernel 3.4; kept over exec): the tree below it stays
    /// whole.
    pub fn subreaper(&mut self) -> &mut Self {
        self.subreaper = true;
        self
    }

    /// Puts all of this into `command`, for every child it will start.
    pub fn apply(mut self, command: &mut Command) {
        let parent = std::process::id().cast_signed();
        let hook = move || self.run(parent);
        // SAFETY: the hook runs in the child between fork and exec. It calls nothing but system
        // calls that are async-signal-safe, on memory that this closure owns, and does not
        // allocate.
        unsafe { command.pre_exec(hook) };
    }

    /// Runs in the child. Async-signal-safe.
    fn run(&mut self, parent: libc::pid_t) -> io::Result<()> {
        if let Some(signal) = self.parent_death_signal {
            die_with_parent(signal, parent)?;
        }
        if self.default_signals {
            reset_signals()?;
        }
        if self.session_leader {
            rustix::process::setsid()?;
        }
        if let Some(terminal) = &self.controlling_terminal {
            rustix::process::ioctl_tiocsctty(terminal)?;
        }
        if self.subreaper {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        }
        for namespace in &self.namespaces {
            // SAFETY: setns(2) takes no pointers; the descriptor is owned, hence open.
            let result = unsafe { libc::setns(namespace.fd.as_raw_fd(), namespace.kinds) };
            check(result)?;
        }
        if let Some(mask) = self.umask {
            // SAFETY: umask(2) takes no pointers and cannot fail.
            unsafe { libc::umask(mask) };
        }
        self.place_descriptors()
    }

    /// Gives the descriptors their numbers. Any source can have the number another one is to get:
    /// all are moved out of the way first, above every number asked for.
    fn place_descriptors(&mut self) -> io::Result<()> {
        for passed in &mut self.fds {
            let source = passed.source.as_raw_fd();
            // SAFETY: fcntl(2) with a number for its argument takes no pointers.
            let parked = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, LAST_FD + 1) };
            check(parked)?;
            passed.parked = parked;
        }
        if self.close_others {
            // SAFETY: close_range(2) takes no pointers, and with this flag closes nothing before
            // exec: the pipe on which a failed exec is told stays open until then.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_close_range,
                    FIRST_FD,
                    libc::c_uint::MAX,
                    libc::CLOSE_RANGE_CLOEXEC,
                )
            };
            check_long(result)?;
        }
        for passed in &self.fds {
            // SAFETY: dup2(2) takes no pointers. What it closes is this child's copy of whatever
            // has the number, which exec would close as well or which the caller gave away.
            let placed = unsafe { libc::dup2(passed.parked, passed.number) };
            check(placed)?;
        }
        Ok(())
    }
}

/// Takes `number` in this process if it is free.
fn reserve(source: &OwnedFd, number: RawFd) -> io::Result<Option<OwnedFd>> {
    let copy = rustix::io::fcntl_dupfd_cloexec(source.as_fd(), number)?;
    Ok((copy.as_raw_fd() == number).then_some(copy))
}

fn die_with_parent(signal: libc::c_int, parent: libc::pid_t) -> io::Result<()> {
    let signal = libc::c_ulong::try_from(signal).unwrap_or(0);
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
    check(result)?;
    // The parent may have ended before the line above.
    // SAFETY: getppid(2) takes nothing and cannot fail.
    let now = unsafe { libc::getppid() };
    if now == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// By raw system calls: libc's wrappers refuse the two signals it keeps for itself, and these can
/// be ignored or blocked too.
fn reset_signals() -> io::Result<()> {
    // Every architecture's struct is at most this long; zeros are SIG_DFL, no flags, empty mask.
    let default = [0_u64; 4];
    let mask = 0_u64;
    for signal in 1..=SIGNAL_MAX {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: the action is read only, and valid for the length of the kernel's struct; no
        // old action is asked for; 8 is the size of the kernel's signal set.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of_val(&mask),
            )
        };
        check_long(result)?;
    }
    // SAFETY: the set is read only and valid for the 8 bytes the kernel reads; no old set is asked
    // for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            size_of_val(&mask),
        )
    };
    check_long(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
