//! Programs in Python, started and ended by tests.

use std::{
    io::{BufRead as _, BufReader},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
};

use lifeboat_blockers::{Blocker, Kind, Policy, Tcp, inspect};

/// The system's own interpreter: one that is installed elsewhere would be reported for that.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What every script begins with.
const BEGIN: &str = "
import ctypes, mmap, os, signal, socket, sys, tempfile, threading
os.closerange(3, 4096)
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    result = libc.syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f'system call {number}')
    return result
";

/// Tells that everything is in place (with whatever the script has put into `said`), and waits.
const END: &str = "
try: said
except NameError: said = ''
os.write(1, f'{said}\\n'.encode())
while True: signal.pause()
";

/// A running program. Dropping it kills its whole session.
pub(crate) struct Program {
    child: Child,
    /// What the script said.
    pub(crate) said: String,
}

impl Program {
    /// Runs a script in a session of its own, in `/`, with its streams at /dev/null.
    pub(crate) fn start(script: &str) -> Self {
        Self::start_by(Command::new("setsid").arg(PYTHON), script)
    }

    /// Runs a script by a command that ends with [`PYTHON`].
    pub(crate) fn start_by(command: &mut Command, script: &str) -> Self {
        command.stdin(Stdio::null());
        Self::start_with_streams(command, script)
    }

    /// The same with standard input as it is set already.
    pub(crate) fn start_with_streams(command: &mut Command, script: &str) -> Self {
        let mut child = command
            .args(["-c", &format!("{BEGIN}\n{script}\n{END}")])
            .current_dir("/")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert!(
            said.ends_with('\n'),
            "the script failed: {:?}",
            child.wait_with_output().unwrap()
        );
        Self {
            child,
            said: said.trim().to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// What an inspection finds. The pipes of its output are the test's, not the program's.
    pub(crate) fn inspect(&self, policy: &Policy) -> Vec<Blocker> {
        let mut policy = policy.clone();
        policy.carried_pipes.extend(self.pipes());
        inspect(self.pid(), &policy).unwrap()
    }

    /// The only thing that an inspection finds.
    pub(crate) fn only(&self, policy: &Policy) -> Blocker {
        let mut found = self.inspect(policy);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// An inspection finds one thing, of which is said what is expected, and CRIU agrees on whether
    /// it is fatal.
    #[track_caller]
    pub(crate) fn proves(
        &self,
        policy: &Policy,
        kind: Kind,
        fatal: bool,
        texts: &[&str],
    ) -> Blocker {
        let found = self.only(policy);
        expect(&found, kind, fatal, texts);
        let dump = self.dump(policy);
        assert_eq!(dump.is_err(), fatal, "CRIU: {dump:?}");
        found
    }

    /// Dumps it with CRIU as the daemon would, leaving it running. On a failure: the log's errors.
    pub(crate) fn dump(&self, policy: &Policy) -> Result<(), String> {
        let tcp: &[&str] = match policy.tcp {
            Tcp::Close => &["--tcp-close"],
            Tcp::Keep => &["--tcp-established", "--network-lock", "nftables"],
        };
        let bundle = std::env::var("LIFEBOAT_CRIU_BUNDLE");
        let bundle = bundle.as_deref().unwrap_or("/usr/lib/lifeboat/criu");
        let images = tempfile::tempdir().unwrap();
        let output = Command::new(format!("{bundle}/bin/criu"))
            .args([
                "dump",
                "--leave-running",
                "--file-locks",
                "--link-remap",
                "--ext-unix-sk",
            ])
            .args([
                "--skip-in-flight",
                "--manage-cgroups=ignore",
                "--log-file",
                "log",
            ])
            .args(["--tree", &self.pid().to_string(), "--images-dir"])
            .arg(images.path())
            .args(tcp)
            .args(["--ghost-limit", &policy.ghost_bytes_max.to_string()])
            .output()
            .expect("the CRIU bundle is there: deploy/criu/bundle.sh makes it");
        if output.status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(images.path().join("log")).unwrap_or_default();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
        Err(errors.join("\n"))
    }

    /// Inodes of the pipes of its output.
    pub(crate) fn pipes(&self) -> Vec<u64> {
        let (stdout, stderr) = (self.child.stdout.as_ref(), self.child.stderr.as_ref());
        let fds = [stdout.unwrap().as_fd(), stderr.unwrap().as_fd()];
        fds.map(|fd| rustix::fs::fstat(fd).unwrap().st_ino).to_vec()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // The group is that of the session; it may be gone already.
        let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Asserts what a finding is and what its text says.
#[track_caller]
pub(crate) fn expect(blocker: &Blocker, kind: Kind, fatal: bool, texts: &[&str]) {
    assert_eq!((blocker.kind, blocker.fatal), (kind, fatal), "{blocker:#?}");
    for text in texts {
        assert!(
            blocker.detail.contains(text),
            "{text:?} is not in {:?}",
            blocker.detail
        );
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `unshare` with options, as root of a user namespace if this user is not root.
pub(crate) fn unshare(options: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("-r");
    }
    command.args(options);
    command
}
