//! With a daemon, both halves in one process (as in a container).

use std::os::fd::AsFd as _;

use lifeboat_proto::hold::{Evacuated, Failed, Restoring, to_hold};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    daemon::{Daemon, Hold},
    program::{Program, eventually, hold_in_place},
};

const CHECKPOINT: &str = "0197f3a2-0000-7000-8000-000000000001";

fn kill_root(root: i32) {
    kill(Pid::from_raw(root), Signal::SIGKILL).unwrap();
}

fn failed(hold: &mut Hold, may_start: bool) {
    hold.say(to_hold::Message::Failed(Failed {
        reason: "because".into(),
        may_start,
    }));
}

#[test]
fn a_hold_presents_itself_and_its_pipes_then_starts_when_told() {
    let daemon = Daemon::new();
    let mut command = hold_in_place(&daemon.socket(), "echo hello; exit 3");
    let mut program = Program::start(&mut command);
    let (mut hold, register) = daemon.registered();
    let spec = register.spec.unwrap();
    assert_eq!(spec.workload, "test");
    assert_eq!(spec.argv, ["sh", "-c", "echo hello; exit 3"]);
    assert_eq!(register.instance.len(), 16);
    assert_eq!(register.root_pid, 0);
    assert!(!register.can_restore, "it is not PID 1");
    let names: Vec<&str> = register
        .streams
        .iter()
        .map(|pipe| pipe.stream.as_str())
        .collect();
    assert_eq!(names, ["stdin", "stdout", "stderr"]);
    let ends = hold.take_descriptors();
    let inodes: Vec<u64> = ends
        .iter()
        .map(|fd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino)
        .collect();
    let told: Vec<u64> = register.streams.iter().map(|pipe| pipe.inode).collect();
    assert_eq!(inodes, told);

    assert!(hold.start() > 0);
    assert_eq!(hold.exited(), 3 << 8);
    hold.note_exit(None);
    assert_eq!(program.code(), 3);
    assert_eq!(program.stdout.rest_text(), "hello\n");
    assert_eq!(program.stderr.rest_text(), "", "there was nothing to tell");
}

#[test]
fn after_an_evacuation_the_code_is_75_and_no_output_is_lost() {
    let daemon = Daemon::new();
    let script = "head -c 60000 /dev/zero; echo written > /dev/stderr; read x";
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), script));
    let (mut hold, _) = daemon.registered();
    let root = hold.start();
    assert_eq!(program.stderr.line(), "written");
    hold.say(to_hold::Message::Evacuated(Evacuated {
        checkpoint: CHECKPOINT.into(),
    }));
    kill_root(root);
    assert_eq!(hold.exited(), 9);
    // The daemon's copies of the ends are still open: the hold does not wait for them.
    assert_eq!(program.stdout.rest().len(), 60000);
    assert_eq!(program.code(), 75);
    let said = program.stderr.rest_text();
    assert!(said.contains(CHECKPOINT), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn an_evacuation_that_is_told_only_afterwards_counts_too() {
    let daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "read x"));
    let (mut hold, _) = daemon.registered();
    kill_root(hold.start());
    hold.exited();
    hold.note_exit(Some(CHECKPOINT));
    assert_eq!(program.code(), 75);
}

#[test]
fn a_kill_that_is_no_evacuation_is_a_kill() {
    let daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "read x"));
    let (mut hold, _) = daemon.registered();
    kill_root(hold.start());
    hold.exited();
    hold.note_exit(None);
    assert_eq!(program.code(), 137);
}

#[test]
fn failures_have_codes_of_their_own() {
    let daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "echo ran"));
    let (mut hold, _) = daemon.registered();
    failed(&mut hold, false);
    assert_eq!(program.code(), 170);
    assert_eq!(program.stdout.rest_text(), "");
    assert_eq!(program.stderr.rest_text(), "lifeboat: test: because\n");

    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "echo ran"));
    let (mut hold, _) = daemon.registered();
    let restoring = Restoring {
        checkpoint: CHECKPOINT.into(),
        stage: "claim".into(),
    };
    hold.say(to_hold::Message::Restoring(restoring));
    failed(&mut hold, false);
    assert_eq!(program.code(), 171);
    assert_eq!(program.stdout.rest_text(), "");
    assert!(
        program
            .stderr
            .rest_text()
            .ends_with("lifeboat: test: because\n")
    );

    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "echo ran"));
    let (mut hold, _) = daemon.registered();
    failed(&mut hold, true);
    hold.started();
    hold.exited();
    hold.note_exit(None);
    assert_eq!(program.code(), 0);
    assert_eq!(program.stdout.rest_text(), "ran\n");
}

#[test]
fn a_restarted_daemon_finds_the_same_hold_and_the_workload_does_not_notice() {
    let mut daemon = Daemon::new();
    let script = "while read line; do echo \"$line\"; done; exit 2";
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), script));
    let (mut hold, first) = daemon.registered();
    let root = hold.start();
    for round in 0..3 {
        daemon.go_away();
        drop(hold);
        let line = format!("round {round}");
        program.type_line(&line);
        assert_eq!(program.stdout.line(), line);
        daemon.come_back();
        let (mut again, register) = daemon.registered();
        assert_eq!(register.instance, first.instance);
        assert_eq!(register.root_pid.cast_signed(), root);
        assert_eq!(register.streams, first.streams);
        assert!(
            again.take_descriptors().is_empty(),
            "the ends were given away"
        );
        again.say(to_hold::Message::Adopted(lifeboat_proto::hold::Adopted {}));
        hold = again;
    }
    program.close_stdin();
    assert_eq!(hold.exited(), 2 << 8);
    hold.note_exit(None);
    assert_eq!(program.code(), 2);
}

#[test]
fn a_daemon_that_died_right_after_an_evacuation_is_waited_for() {
    let mut daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "read x"));
    let (mut hold, first) = daemon.registered();
    let root = hold.start();
    // Any answer: it proves that a daemon was there.
    hold.say(to_hold::Message::Adopted(lifeboat_proto::hold::Adopted {}));
    daemon.go_away();
    drop(hold);
    kill_root(root);
    eventually("the root is reaped", || {
        !crate::program::exists(&root.to_string())
    });
    daemon.come_back();
    let (mut hold, register) = daemon.registered();
    assert_eq!(register.instance, first.instance);
    assert_eq!(register.root_pid.cast_signed(), root);
    assert_eq!(hold.exited(), 9);
    hold.note_exit(Some(CHECKPOINT));
    assert_eq!(program.code(), 75);
}

#[test]
fn a_daemon_that_comes_late_learns_of_a_running_workload() {
    let mut daemon = Daemon::absent();
    let script = "echo $$; read x; exit 6";
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), script));
    let root = program.stdout.line();
    daemon.come_back();
    let (mut hold, register) = daemon.registered();
    assert_eq!(register.root_pid.to_string(), root);
    hold.say(to_hold::Message::Adopted(lifeboat_proto::hold::Adopted {}));
    program.type_line("go on");
    assert_eq!(hold.exited(), 6 << 8);
    hold.note_exit(None);
    assert_eq!(program.code(), 6);
}

#[test]
fn a_daemon_that_talks_nonsense_is_left_and_tried_again() {
    let daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "exit 5"));
    let (mut hold, first) = daemon.registered();
    hold.say_garbage();
    let (mut hold, second) = daemon.registered();
    assert_eq!(first.instance, second.instance);
    assert_eq!(hold.take_descriptors().len(), 3);
    hold.start();
    hold.exited();
    hold.note_exit(None);
    assert_eq!(program.code(), 5);
}

#[test]
fn who_waits_for_an_answer_can_be_interrupted() {
    let daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "echo ran"));
    let (mut hold, _) = daemon.registered();
    program.signal(Signal::SIGINT);
    assert_eq!(program.code(), 130);
    assert!(
        hold.try_hear().is_err(),
        "the connection ends with the hold"
    );
    assert_eq!(program.stdout.rest_text(), "");
}

#[test]
fn input_stays_where_it_is_until_the_workload_runs() {
    let daemon = Daemon::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = hold_in_place(&daemon.socket(), "cat");
    let mut program = Program::start(&mut command);
    program.type_line("early");
    let (mut hold, _) = daemon.registered();
    let ends = hold.take_descriptors();
    // Nothing was put into the workload's pipe: a restore may have older bytes to put first.
    let (stdin, pending) = (&ends[0], rustix::io::ioctl_fionread(&ends[0]).unwrap());
    assert_eq!(pending, 0, "{stdin:?}");
    hold.start();
    assert_eq!(program.stdout.line(), "early");
    program.close_stdin();
    hold.exited();
    hold.note_exit(None);
    assert_eq!(program.code(), 0);
    drop((reader, writer));
}

#[test]
fn waiting_for_another_machine_is_told_and_is_not_a_restore() {
    let daemon = Daemon::new();
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), "echo ran"));
    let (mut hold, _) = daemon.registered();
    let stage = "waiting for node b to let go".to_owned();
    hold.say(to_hold::Message::Restoring(Restoring {
        checkpoint: String::new(),
        stage,
    }));
    assert_eq!(
        program.stderr.line(),
        "lifeboat: test: waiting for node b to let go"
    );
    failed(&mut hold, false);
    assert_eq!(program.code(), 170);
}

#[test]
fn a_refusal_of_a_running_workload_is_said_once() {
    let mut daemon = Daemon::absent();
    let script = "echo $$; read x; echo end >&2; exit 6";
    let mut program = Program::start(&mut hold_in_place(&daemon.socket(), script));
    program.stdout.line();
    assert!(program.stderr.line().contains("started without protection"));
    daemon.come_back();
    for _ in 0..2 {
        let (mut hold, _) = daemon.registered();
        failed(&mut hold, false);
        hold.disconnect();
    }
    assert_eq!(program.stderr.line(), "lifeboat: test: because");
    daemon.go_away();
    program.type_line("go on");
    assert_eq!(program.stderr.line(), "end");
    assert_eq!(program.code(), 6);
}

#[test]
fn a_reader_that_never_reads_does_not_keep_an_interrupted_hold() {
    let daemon = Daemon::new();
    // More than one pipe holds, less than two.
    let mut command = hold_in_place(&daemon.socket(), "head -c 100000 /dev/zero; exit 3");
    let mut program = Program::start(&mut command);
    let (mut hold, _) = daemon.registered();
    hold.start();
    assert_eq!(hold.exited(), 3 << 8);
    hold.note_exit(None);
    program.signal(Signal::SIGTERM);
    assert_eq!(program.code(), 3);
}
