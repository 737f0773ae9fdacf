//! A process tree in fresh PID, mount and host name namespaces, with pipes for its streams.

use std::{
    cell::OnceCell,
    fs::{self, File},
    io::{BufRead, BufReader, PipeReader, PipeWriter, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use lifeboat_criu::{InheritedPipe, Namespaces};

/// How long anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Hold {
    unshare: Child,
    /// Its first process, as this process sees it.
    pub init: u32,
    /// The workload, as it sees itself; 0 if none was started.
    pub root: u32,
    pub stdin: PipeWriter,
    own_net: bool,
    stdout: PipeReader,
    lines: OnceCell<Receiver<String>>,
    workload_ends: [OwnedFd; 2],
}

impl Hold {
    /// Starts a workload.
    pub fn run(command: &[&str]) -> Self {
        Self::run_with(command, &[])
    }

    /// Starts a workload under a hold with more environment.
    pub fn run_with(command: &[&str], environment: &[(&str, &str)]) -> Self {
        let own_net = environment.iter().any(|(name, _)| *name == "HOLD_NET");
        let (stdin_end, stdin) = std::io::pipe().expect("a pipe");
        let (stdout, stdout_end) = std::io::pipe().expect("a pipe");
        let mut unshare = Command::new("unshare")
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--uts",
                "--ipc",
            ])
            .args(own_net.then_some("--net"))
            .arg(super::example("hold"))
            .args(command)
            .envs(environment.iter().copied())
            .stdin(stdin_end.try_clone().expect("dup"))
            .stdout(stdout_end.try_clone().expect("dup"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare(1) runs");
        let mut said = BufReader::new(unshare.stderr.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("readable");
        // Whatever else it says is for people.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::stderr()));
        let root = match line.trim() {
            "empty" => 0,
            line => line
                .strip_prefix("started ")
                .and_then(|pid| pid.parse().ok())
                .unwrap_or_else(|| panic!("hold said {line:?}")),
        };
        let init = children(unshare.id())[0];
        Self {
            unshare,
            init,
            root,
            stdin,
            own_net,
            stdout,
            lines: OnceCell::new(),
            workload_ends: [stdin_end.into(), stdout_end.into()],
        }
    }

    /// Starts nothing.
    pub fn empty() -> Self {
        Self::run(&[])
    }

    pub fn namespaces(&self) -> Namespaces {
        let open = |kind: &str| {
            let path = format!("/proc/{}/ns/{kind}", self.init);
            Some(OwnedFd::from(File::open(path).expect("the hold runs")))
        };
        Namespaces {
            mount: open("mnt"),
            pid: open("pid"),
            uts: open("uts"),
            net: self.own_net.then(|| open("net")).flatten(),
            ..Namespaces::default()
        }
    }

    /// Inodes of the pipes of stdin and stdout.
    pub fn inodes(&self) -> [u64; 2] {
        self.workload_ends
            .each_ref()
            .map(|fd| rustix::fs::fstat(fd).expect("open").st_ino)
    }

    /// This hold's pipes in the place of `other`'s.
    pub fn instead_of(&self, other: [u64; 2]) -> Vec<InheritedPipe> {
        let fds = self
            .workload_ends
            .each_ref()
            .map(|fd| fd.as_fd().try_clone_to_owned().expect("dup"));
        fds.into_iter()
            .zip(other)
            .map(|(fd, inode)| InheritedPipe { fd, inode })
            .collect()
    }

    /// Nobody reads what the workload prints before somebody asks for it.
    fn lines(&self) -> &Receiver<String> {
        self.lines.get_or_init(|| {
            let stdout = self.stdout.try_clone().expect("dup");
            lines(stdout)
        })
    }

    /// The next line that the workload prints.
    pub fn line(&self) -> String {
        self.lines().recv_timeout(PATIENCE).expect("a line in time")
    }

    /// Whether nothing is printed for a while, once everything printed before was taken.
    pub fn is_silent(&self) -> bool {
        let pause = Duration::from_millis(500);
        while self.lines().recv_timeout(Duration::from_millis(50)).is_ok() {}
        self.lines().recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }

    /// Bytes that the workload has printed and nobody has read.
    pub fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.stdout).expect("a pipe")
    }

    /// Waits for a good round, and returns its number.
    pub fn round(&self) -> u64 {
        loop {
            let line = self.line();
            assert!(!line.contains("BAD"), "{line}");
            if let Some(round) = line.strip_prefix("root ") {
                return round.parse().expect("a number");
            }
        }
    }

    /// Waits for some good rounds.
    pub fn rounds(&self, count: usize) {
        for _ in 0..count {
            self.round();
        }
    }

    /// PIDs, as this process sees them, by PIDs as the hold's processes see them.
    pub fn outer_pid(&self, inner: u32) -> Option<u32> {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.init)?;
        let entries = fs::read_dir("/proc").expect("mounted").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.into_iter()
            .find(|pid| inner_pid(*pid) == Some(inner) && namespace(*pid).as_ref() == Some(&own))
    }

    /// Whether a process of the workload is there and not a zombie.
    pub fn is_alive(&self, inner: u32) -> bool {
        self.outer_pid(inner)
            .and_then(state)
            .is_some_and(|state| state != 'Z')
    }

    /// State letter of a process of the workload.
    pub fn state(&self, inner: u32) -> Option<char> {
        self.outer_pid(inner).and_then(state)
    }

    pub fn type_line(&mut self, line: &str) {
        self.stdin
            .write_all(format!("{line}\n").as_bytes())
            .expect("the pipe has room");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // With --kill-child, the namespace's first process goes with it, and so all others.
        let _gone = self.unshare.kill();
        let _gone = self.unshare.wait();
    }
}

fn lines(stdout: PipeReader) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| {
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

pub fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_whitespace().last()?.parse().ok()
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        thread::park_timeout(Duration::from_millis(10));
    }
}
