//! A program under test, with deadlines on everything that waits for it.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use lifeboat_sys::wait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::process::{PidfdFlags, pidfd_open};

/// No step of a test takes longer than this on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// The program that is tested.
pub(crate) fn lifeboat() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("lifeboat"));
    command
        .env_remove("LIFEBOAT_SOCKET")
        .env_remove("LIFEBOAT_IN_PLACE");
    command
}

/// `lifeboat run` of a shell script, in place.
pub(crate) fn hold_in_place(socket: &Path, script: &str) -> Command {
    let mut command = hold(socket, script);
    command.env("LIFEBOAT_IN_PLACE", "1");
    command
}

/// `lifeboat run` of a shell script. A script that waits for a signal does so with `wait`: in `read`
/// a signal that comes just before the system call is handled only when there is input.
pub(crate) fn hold(socket: &Path, script: &str) -> Command {
    let mut command = lifeboat();
    command.arg("--socket").arg(socket);
    command.args(["run", "--workload", "test", "--", "sh", "-c", script]);
    command
}

/// A running program with pipes.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// What comes from a program.
pub(crate) struct Output {
    fd: OwnedFd,
    unread: Vec<u8>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: Output::new(child.stdout.take().unwrap().into()),
            stderr: Output::new(child.stderr.take().unwrap().into()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the end; the exit code.
    pub(crate) fn code(&mut self) -> i32 {
        self.close_stdin();
        self.code_with_stdin_open()
    }

    pub(crate) fn code_with_stdin_open(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        if !wait::readable(&pidfd, deadline()).unwrap() {
            let said = self.stderr.so_far();
            panic!("the program has not ended; it said {said:?}");
        }
        let status = self.child.wait().unwrap();
        status
            .code()
            .unwrap_or_else(|| panic!("the hold itself was killed: {status}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended unless the test fails.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Output {
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            unread: Vec::new(),
        }
    }

    /// Reads a line, without its end.
    pub(crate) fn line(&mut self) -> String {
        let line = self.until(b"\n");
        line.trim_end_matches(['\n', '\r']).to_owned()
    }

    /// Reads up to and including the first occurrence of `end`.
    pub(crate) fn until(&mut self, end: &[u8]) -> String {
        loop {
            let found = self.unread.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                let rest = self.unread.split_off(at + end.len());
                let text = std::mem::replace(&mut self.unread, rest);
                return String::from_utf8_lossy(&text).into_owned();
            }
            if self.more() == 0 {
                panic!("the stream ended, or is silent, after {:?}", self.so_far());
            }
        }
    }

    /// Reads to the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more() > 0 {}
        std::mem::take(&mut self.unread)
    }

    pub(crate) fn rest_text(&mut self) -> String {
        String::from_utf8_lossy(&self.rest()).into_owned()
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }

    fn more(&mut self) -> usize {
        if !wait::readable(self.fd.as_fd(), deadline()).unwrap() {
            return 0;
        }
        let mut buffer = [0; 65536];
        let mut file = std::fs::File::from(self.fd.try_clone().unwrap());
        // A pseudo-terminal ends with an error.
        let read = file.read(&mut buffer).unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..read]);
        read
    }
}

/// Waits until something is true that no descriptor tells.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = deadline();
    let (reader, _writer) = io::pipe().unwrap();
    while !is_true() {
        assert!(Instant::now() < deadline, "never: {what}");
        // A pipe that stays empty: nothing to synchronise with, just a pause between looks.
        let pause = Instant::now() + Duration::from_millis(10);
        wait::readable(&reader, pause).unwrap();
    }
}

/// Whether there is a process of this number, dead or alive.
pub(crate) fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}
