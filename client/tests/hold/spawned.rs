//! Both halves, as on a plain machine: the daemon starts the init half in namespaces.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command},
};

use lifeboat_client::hold::{FRONT_FD, SPEC_FD};
use lifeboat_proto::hold::{Failed, Spawn, Spawned, to_hold};
use lifeboat_sys::spawn::ChildSetup;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message as _;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::{
    daemon::{Daemon, Hold},
    program::{Program, eventually, exists, hold},
};

/// Starts the init half as the daemon does.
pub(crate) fn start_init(spawn: &Spawn, descriptors: Vec<OwnedFd>) -> Child {
    let mut spec = File::from(memfd_create("spec", MemfdFlags::CLOEXEC).unwrap());
    spec.write_all(&spawn.spec.as_ref().unwrap().encode_to_vec())
        .unwrap();
    spec.rewind().unwrap();
    let [stdin, stdout, stderr, front] = descriptors.try_into().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--mount-proc",
        "--ipc",
        "--kill-child",
        "--",
    ]);
    command
        .arg(assert_cmd::cargo::cargo_bin!("lifeboat"))
        .arg("hold-init");
    command
        .env_clear()
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    let mut setup = ChildSetup::new();
    setup
        .pass_fd(front, FRONT_FD)
        .unwrap()
        .pass_fd(spec.into(), SPEC_FD)
        .unwrap();
    setup.apply(&mut command);
    command.spawn().unwrap()
}

/// A hold of two halves that has registered.
pub(crate) struct Pair {
    pub(crate) front: Program,
    pub(crate) init: Child,
    pub(crate) hold: Hold,
}

impl Pair {
    pub(crate) fn start(daemon: &Daemon, command: &mut Command) -> Self {
        let front = Program::start(command);
        let mut connection = daemon.accept();
        let (spawn, descriptors) = connection.spawn();
        let init = start_init(&spawn, descriptors);
        connection.say(to_hold::Message::Spawned(Spawned {}));
        let (hold, register) = daemon.registered();
        assert!(register.can_restore, "it is PID 1 of its namespace");
        Self { front, init, hold }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.init.kill());
        drop(self.init.wait());
    }
}

#[test]
fn streams_and_exit_code_pass_through_both_halves() {
    let daemon = Daemon::new();
    let script = "echo $$ $PPID; cat; echo err >&2; exit 11";
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), script));
    assert_eq!(pair.hold.start(), 2, "the first process after the hold");
    assert_eq!(pair.front.stdout.line(), "2 1");
    pair.front.type_line("through");
    assert_eq!(pair.front.stdout.line(), "through");
    pair.front.close_stdin();
    assert_eq!(pair.hold.exited(), 11 << 8);
    pair.hold.note_exit(None);
    assert_eq!(pair.front.code(), 11);
    assert_eq!(pair.front.stderr.rest_text(), "err\n");
}

#[test]
fn signals_pass_through_both_halves() {
    let daemon = Daemon::new();
    let script = "trap 'echo got it; exit 4' USR2; echo ready; sleep 1000 & wait $!";
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), script));
    pair.hold.start();
    assert_eq!(pair.front.stdout.line(), "ready");
    pair.front.signal(Signal::SIGUSR2);
    assert_eq!(pair.front.stdout.line(), "got it");
    pair.hold.exited();
    pair.hold.note_exit(None);
    assert_eq!(pair.front.code(), 4);
}

#[test]
fn a_front_half_that_is_killed_takes_the_workload_with_it() {
    let daemon = Daemon::new();
    let mark = daemon.directory().join("mark");
    let script = format!(
        "trap 'echo TERM > {}; exit' TERM; echo ready; sleep 1000 & wait $!",
        mark.display()
    );
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), &script));
    pair.hold.start();
    assert_eq!(pair.front.stdout.line(), "ready");
    pair.front.signal(Signal::SIGKILL);
    pair.hold.exited();
    pair.hold.note_exit(None);
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "TERM\n");
    assert!(pair.hold.try_hear().is_err(), "the init half ends");
}

#[test]
fn an_init_half_that_is_killed_is_told() {
    let daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo ready; read x"));
    pair.hold.start();
    assert_eq!(pair.front.stdout.line(), "ready");
    kill(Pid::from_raw(pair.hold.pid), Signal::SIGKILL).unwrap();
    assert_eq!(pair.front.code_with_stdin_open(), 137);
    assert!(
        pair.front
            .stderr
            .rest_text()
            .contains("its hold was killed")
    );
}

#[test]
fn without_namespaces_it_ends_or_runs_in_place_as_the_daemon_says() {
    for (may_start, code) in [(false, 170), (true, 9)] {
        let daemon = Daemon::new();
        let mut front = Program::start(&mut hold(&daemon.socket(), "exit 9"));
        let mut connection = daemon.accept();
        let (_, descriptors) = connection.spawn();
        drop(descriptors);
        let reason = "no namespaces here".to_owned();
        connection.say(to_hold::Message::Failed(Failed { reason, may_start }));
        if may_start {
            let (mut hold, _) = daemon.registered();
            hold.start();
            hold.exited();
            hold.note_exit(None);
        }
        assert_eq!(front.code(), code);
        assert!(front.stderr.rest_text().contains("no namespaces here"));
    }
}

#[test]
fn everything_in_the_namespace_ends_with_the_first_process() {
    let daemon = Daemon::new();
    let script = "setsid setsid sleep 1000 > /dev/null 2>&1 & echo done; exit 0";
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), script));
    pair.hold.start();
    pair.hold.exited();
    pair.hold.note_exit(None);
    assert_eq!(pair.front.code(), 0);
    let init = pair.hold.pid.to_string();
    drop(pair.init.wait());
    eventually("the init half is gone", || !exists(&init));
}
