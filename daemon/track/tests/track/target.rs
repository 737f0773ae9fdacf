//! The program that is followed: built once, started by its seed, killed when dropped.

use std::{
    fs,
    io::Read,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use lifeboat_sys::{kcmp, namespace, pidfd::Pidfd};
use rustix::process::{Pid, Signal};

use crate::program;

/// How long anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a target does besides writing.
pub(crate) mod feature {
    pub(crate) const FORKS: u32 = 1;
    pub(crate) const EXECS: u32 = 2;
    pub(crate) const THREADS: u32 = 4;
    pub(crate) const HUGE: u32 = 8;
    pub(crate) const MOVES: u32 = 16;
    pub(crate) const GUARDS: u32 = 32;
    pub(crate) const ALL: u32 = FORKS | EXECS | THREADS | HUGE | MOVES | GUARDS;
}

/// A running target.
#[derive(Debug)]
pub(crate) struct Target {
    child: Child,
    pub(crate) root: Pidfd,
}

impl Target {
    pub(crate) fn start(seed: u64, threads: u32, features: u32) -> Self {
        let mut child = Command::new(program::build("target"))
            .args([seed.to_string(), threads.to_string(), features.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut begun)
            .unwrap();
        let pid = Pid::from_child(&child);
        Self {
            root: Pidfd::open(pid).unwrap(),
            child,
        }
    }

    /// Lets the target run for a while; it must not end.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let ended = self.root.wait_exit(Instant::now() + time).unwrap();
        assert!(!ended, "the target ended: {:?}", self.child.wait());
    }

    /// The processes that there are now, without zombies.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let tree = namespace::process_tree(&self.root).unwrap();
        let pids = tree.into_iter().map(|process| process.pid);
        pids.filter(|pid| state_of(*pid).is_some_and(|states| states != "Z"))
            .collect()
    }

    /// Stops every thread of every process; returns the processes.
    pub(crate) fn stop(&self) -> Vec<Pid> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.processes();
            for process in namespace::process_tree(&self.root).unwrap() {
                // A parent cannot stop before its vfork child has gone on.
                let borrows = |parent| kcmp::share_memory(process.pid, parent).unwrap_or(false);
                if !process.parent.is_some_and(borrows) {
                    rustix::process::kill_process(process.pid, Signal::STOP).ok();
                }
            }
            let stopped = |pid: &Pid| {
                state_of(*pid).is_none_or(|all| all.bytes().all(|s| s == b'T' || s == b'Z'))
            };
            if before.iter().all(stopped) && self.processes() == before {
                return before;
            }
            assert!(Instant::now() < deadline, "the tree does not stop");
            std::thread::yield_now();
        }
    }
}

/// Exit code of a target that has touched what it does not have.
const CRASHED: i32 = 11;

/// Whether a target has crashed since this was asked last. Of a target with several threads that is
/// to be expected, seldom: a move of several mappings that fails halfway leaves a hole, in which
/// another thread may map something before the target has mapped it again.
pub(crate) fn has_crashed() -> bool {
    HAS_CRASHED.swap(false, Ordering::Relaxed)
}

static HAS_CRASHED: AtomicBool = AtomicBool::new(false);

impl Drop for Target {
    fn drop(&mut self) {
        self.child.kill().ok();
        let status = self.child.wait();
        if status.is_ok_and(|status| status.code() == Some(CRASHED)) {
            HAS_CRASHED.store(true, Ordering::Relaxed);
        }
    }
}

/// States of all threads of a process, as letters; `None`: it is gone.
fn state_of(pid: Pid) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).ok()?;
    let states = tasks.flatten().filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.chars().next()
    });
    let mut states: Vec<char> = states.collect();
    states.sort_unstable();
    states.dedup();
    Some(states.into_iter().collect())
}
