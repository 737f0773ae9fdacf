//! Child processes for tests: a closure run in a forked child that dies with its test.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of this"
)]

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

mod memory;

pub(crate) use self::memory::Memory;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// How long anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Status of a child whose closure panicked.
const PANICKED: i32 = 101;

/// A forked child. Killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    messages: File,
    orders: File,
    reaped: bool,
}

/// The child's side of the two pipes to its test.
#[derive(Debug)]
pub(crate) struct Parent {
    messages: File,
    orders: File,
}

/// Runs `body` in a child and exits with 0, or with 101 and its message on stderr when it panics.
pub(crate) fn fork(body: impl FnOnce()) -> Child {
    fork_with(|_| body())
}

/// Like [`fork`], with pipes to talk.
pub(crate) fn fork_with(body: impl FnOnce(&mut Parent)) -> Child {
    let (from_child, to_parent) = pipe();
    let (from_parent, to_child) = pipe();
    // SAFETY: the child goes on with code that may allocate; glibc's fork keeps its allocator
    // usable in the child of a process with threads. The child never returns from here.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        drop(from_child);
        drop(to_child);
        let mut parent = Parent {
            messages: to_parent.into(),
            orders: from_parent.into(),
        };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| body(&mut parent)));
        // SAFETY: ends the child without running what belongs to its parent.
        unsafe { libc::_exit(if outcome.is_ok() { 0 } else { PANICKED }) };
    }
    Child {
        pid: Pid::from_raw(pid).unwrap(),
        messages: from_child.into(),
        orders: to_child.into(),
        reaped: false,
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

impl Child {
    /// The number of the process.
    pub(crate) fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for the child's next number.
    pub(crate) fn receive(&mut self) -> u64 {
        let ready = lifeboat_sys::wait::readable(&self.messages, Instant::now() + PATIENCE);
        assert!(ready.unwrap(), "the child said nothing in {PATIENCE:?}");
        let mut word = [0; 8];
        self.messages
            .read_exact(&mut word)
            .expect("the child ended instead of answering");
        u64::from_le_bytes(word)
    }

    /// Whether the child's next number is there.
    pub(crate) fn has_sent(&self) -> bool {
        lifeboat_sys::wait::readable(&self.messages, Instant::now()).unwrap()
    }

    /// Sends the child a number.
    pub(crate) fn send(&mut self, word: u64) {
        self.orders.write_all(&word.to_le_bytes()).unwrap();
    }

    /// Waits for the child's end.
    pub(crate) fn wait(mut self) -> WaitStatus {
        let pidfd =
            rustix::process::pidfd_open(self.pid, rustix::process::PidfdFlags::empty()).unwrap();
        let ended = lifeboat_sys::wait::readable(&pidfd, Instant::now() + PATIENCE).unwrap();
        assert!(ended, "the child did not end in {PATIENCE:?}");
        self.reaped = true;
        rustix::process::waitpid(Some(self.pid), WaitOptions::empty())
            .unwrap()
            .unwrap()
            .1
    }

    /// Waits for the child's end, which must be a good one.
    pub(crate) fn assert_success(self) {
        let status = self.wait();
        assert_eq!(status.exit_status(), Some(0), "{status:?}");
    }
}

impl Parent {
    /// Sends the test a number.
    pub(crate) fn send(&mut self, word: u64) {
        self.messages.write_all(&word.to_le_bytes()).unwrap();
    }

    /// Waits for a number from the test.
    pub(crate) fn receive(&mut self) -> u64 {
        let mut word = [0; 8];
        self.orders.read_exact(&mut word).unwrap();
        u64::from_le_bytes(word)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // It may have ended already; it is reaped in any case.
            rustix::process::kill_process(self.pid, Signal::KILL).ok();
            rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).ok();
        }
    }
}

/// Repeats `attempt` until it has an answer; fails after [`PATIENCE`]. For what the kernel gives no
/// event to wait for.
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "nothing happened in {PATIENCE:?}"
        );
        std::thread::yield_now();
    }
}

/// Waits until thread `tid` sleeps in system call `number`.
pub(crate) fn until_in_system_call(tid: i32, number: libc::c_long) {
    until(|| is_in_system_call(tid, number).then_some(()));
}

/// Whether thread `tid` sleeps in system call `number`, or in the rest of it.
pub(crate) fn is_in_system_call(tid: i32, number: libc::c_long) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap();
    let current = text
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    current == Some(number) || current == Some(libc::SYS_restart_syscall)
}

/// A field of `/proc/TID/status`.
pub(crate) fn status_of(tid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    line.trim_start_matches(':').trim().to_owned()
}
