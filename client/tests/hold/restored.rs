//! A restore: somebody else puts a process in place, which becomes the hold's child.

use std::{
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use lifeboat_client::hold::wire::Wire;
use lifeboat_proto::{
    LOAD_JOURNAL_HEADER,
    hold::{Adopted, Failed, Guard, Guarding, Loaded, Restored, Restoring, to_daemon, to_hold},
};

use crate::{
    daemon::{Daemon, Hold},
    program::{Output, hold},
    spawned::Pair,
};

const CHECKPOINT: &str = "0197f3a2-0000-7000-8000-000000000002";

/// Starts a script in the hold's namespaces with the hold's pipes, and leaves it to the hold to
/// adopt; its PID there. That is what a restore looks like from the hold's side.
fn put_in_place(hold: &mut Hold, script: &str) -> u32 {
    let [stdin, stdout, stderr] = hold.take_descriptors().try_into().unwrap();
    let (told, tell) = io::pipe().unwrap();
    // The pipes are descriptors 3 to 5 of the outer shell; it tells the number and ends at once.
    let outer = format!("setsid sh -c '{script}' <&3 >&4 2>&5 3<&- 4>&- 5>&- & echo $!");
    let mut command = Command::new("nsenter");
    command.args(["-t", &hold.pid.to_string(), "-p", "-m", "sh", "-c", &outer]);
    command
        .stdin(Stdio::null())
        .stdout(tell)
        .stderr(Stdio::inherit());
    let mut setup = lifeboat_sys::spawn::ChildSetup::new();
    setup
        .pass_fd(stdin, 3)
        .unwrap()
        .pass_fd(stdout, 4)
        .unwrap()
        .pass_fd(stderr, 5)
        .unwrap();
    setup.apply(&mut command);
    assert!(command.status().unwrap().success());
    drop(command);
    Output::new(told.into()).line().parse().unwrap()
}

fn restoring(hold: &mut Hold) {
    let stage = "claim".to_owned();
    hold.say(to_hold::Message::Restoring(Restoring {
        checkpoint: CHECKPOINT.into(),
        stage,
    }));
}

fn restored(hold: &mut Hold, root_pid: u32, pending: &'static str, loading: bool) {
    hold.say(to_hold::Message::Restored(Restored {
        root_pid,
        checkpoint: CHECKPOINT.into(),
        pending_stdin: pending.as_bytes().into(),
        loading,
    }));
}

/// Has a hold guard descriptors, with a journal whose mark is `mark`.
fn guarded(hold: &mut Hold, mark: u8, wait_ms: u64, descriptors: Vec<OwnedFd>) -> Wire {
    let mut journal = tempfile::tempfile().unwrap();
    journal.write_all(LOAD_JOURNAL_HEADER).unwrap();
    journal.write_all(&[mark]).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    hold.say_with(
        to_hold::Message::Guarding(Guarding { wait_ms }),
        vec![theirs.into(), journal.into()],
    );
    let mut channel = Wire::new(ours.into()).unwrap();
    for (forked, descriptor) in (0..).zip(descriptors) {
        let guard = Guard { pid: 1001, forked };
        channel.send(&guard, vec![descriptor]).unwrap();
    }
    channel
}

/// Waits until the hold has all that is behind `links`.
fn holds(pair: &Pair, links: &[PathBuf]) {
    let directory = format!("/proc/{}/fd", pair.hold.pid);
    crate::program::eventually("all are guarded", || {
        let entries = std::fs::read_dir(&directory).unwrap();
        let open: Vec<PathBuf> = entries
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .collect();
        links.iter().all(|link| open.contains(link))
    });
}

/// Something that can be guarded.
fn descriptor() -> OwnedFd {
    io::pipe().unwrap().0.into()
}

/// What `/proc/PID/fd` says of it.
fn link(descriptor: &OwnedFd) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap()
}

#[test]
fn a_restored_workload_goes_on_in_the_new_holds_streams() {
    let daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    pair.front.type_line("new input");
    restoring(&mut pair.hold);
    let script = "while read x; do echo \"$x\"; done; exit 12";
    let root = put_in_place(&mut pair.hold, script);
    restored(&mut pair.hold, root, "old input\n", false);
    assert_eq!(pair.front.stdout.line(), "old input");
    assert_eq!(pair.front.stdout.line(), "new input");
    pair.front.close_stdin();
    assert_eq!(pair.hold.exited(), 12 << 8);
    pair.hold.note_exit(None);
    assert_eq!(pair.front.code(), 12);
    let said = pair.front.stderr.rest_text();
    assert!(
        said.contains(&format!("goes on from checkpoint {CHECKPOINT}")),
        "{said}"
    );
}

#[test]
fn a_workload_that_ends_before_the_hold_hears_of_it_is_not_missed() {
    let daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    restoring(&mut pair.hold);
    // It ends when it was left to the hold, not before.
    let gate = daemon.directory().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("read x < {}; exit 13", gate.display());
    let root = put_in_place(&mut pair.hold, &script);
    std::fs::write(&gate, "go on\n").unwrap();
    let status = format!("/proc/{}/root/proc/{root}", pair.hold.pid);
    crate::program::eventually("it was reaped", || !std::path::Path::new(&status).exists());
    restored(&mut pair.hold, root, "", false);
    assert_eq!(pair.hold.exited(), 13 << 8);
    pair.hold.note_exit(None);
    assert_eq!(pair.front.code(), 13);
}

/// A workload whose memory is loaded; its daemon has just died.
fn half_loaded(daemon: &Daemon, script: &str, mark: u8, wait_ms: u64) -> (Pair, u32) {
    let mut pair = Pair::start(daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    restoring(&mut pair.hold);
    let descriptors = [descriptor(), descriptor(), descriptor()];
    let links: Vec<PathBuf> = descriptors.iter().map(link).collect();
    let [first, second, third] = descriptors;
    let mut channel = guarded(&mut pair.hold, mark, wait_ms, vec![first, second]);
    let root = put_in_place(&mut pair.hold, script);
    restored(&mut pair.hold, root, "", true);
    assert_eq!(pair.front.stdout.line(), "runs");
    holds(&pair, &links[..2]);
    // What comes at the last moment counts.
    let guard = Guard {
        pid: 1001,
        forked: 2,
    };
    channel.send(&guard, vec![third]).unwrap();
    drop(channel);
    pair.hold.disconnect();
    (pair, root)
}

#[test]
fn a_daemon_that_cannot_have_told_everything_takes_the_workload_with_it() {
    for (mark, wait_ms) in [(1, 600_000), (0, 0)] {
        let daemon = Daemon::new();
        let (mut pair, _) = half_loaded(&daemon, "echo runs; read x", mark, wait_ms);
        assert_eq!(pair.front.code_with_stdin_open(), 171);
        let said = pair.front.stderr.rest_text();
        assert!(said.contains("its checkpoint is intact"), "{said}");
    }
}

#[test]
fn a_daemon_that_does_not_come_back_takes_the_workload_with_it() {
    let mut daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    restoring(&mut pair.hold);
    let _channel = guarded(&mut pair.hold, 0, 300, vec![descriptor()]);
    let root = put_in_place(&mut pair.hold, "echo runs; read x");
    restored(&mut pair.hold, root, "", true);
    assert_eq!(pair.front.stdout.line(), "runs");
    daemon.go_away();
    pair.hold.disconnect();
    assert_eq!(pair.front.code_with_stdin_open(), 171);
    let said = pair.front.stderr.rest_text();
    assert!(said.contains("waits for it, up to 300ms"), "{said}");
    assert!(said.contains("its checkpoint is intact"), "{said}");
}

#[test]
fn a_daemon_that_comes_back_gets_what_was_guarded() {
    let daemon = Daemon::new();
    let script = "echo runs; read x; echo $x; exit 15";
    let (mut pair, root) = half_loaded(&daemon, script, 0, 600_000);
    let (mut again, register) = daemon.registered();
    assert_eq!((register.root_pid, register.guarded), (root, 3));
    let to_daemon::Message::Guarded(guarded) = again.hear() else {
        panic!("no Guarded")
    };
    let forked: Vec<u32> = guarded.processes.iter().map(|one| one.forked).collect();
    assert_eq!(forked, [0, 1, 2]);
    assert_eq!(again.take_descriptors().len(), 3);
    let _channel = self::guarded(&mut again, 0, 600_000, vec![descriptor()]);
    again.say(to_hold::Message::Adopted(Adopted {}));
    // It may die once more.
    again.disconnect();
    let (mut again, register) = daemon.registered();
    assert_eq!(register.guarded, 4);
    again.say(to_hold::Message::Adopted(Adopted {}));
    again.say(to_hold::Message::Loaded(Loaded {}));
    pair.front.type_line("still here");
    assert_eq!(pair.front.stdout.line(), "still here");
    let status = loop {
        match again.hear() {
            to_daemon::Message::Exited(exited) => break exited.wait_status,
            to_daemon::Message::Guarded(_) => {}
            said => panic!("{said:?}"),
        }
    };
    assert_eq!(status, 15 << 8);
    again.note_exit(None);
    assert_eq!(pair.front.code(), 15);
}

#[test]
fn a_daemon_that_says_that_memory_cannot_be_had_ends_the_workload() {
    let daemon = Daemon::new();
    let (mut pair, _) = half_loaded(&daemon, "echo runs; read x", 0, 600_000);
    let (mut again, _) = daemon.registered();
    again.say(to_hold::Message::Failed(Failed {
        reason: "a page is lost".into(),
        may_start: false,
    }));
    assert_eq!(pair.front.code_with_stdin_open(), 171);
    let said = pair.front.stderr.rest_text();
    assert!(
        said.contains("a page is lost; the checkpoint is intact"),
        "{said}"
    );
}

#[test]
fn once_memory_is_in_the_daemon_may_die() {
    let daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    restoring(&mut pair.hold);
    let root = put_in_place(&mut pair.hold, "echo runs; read x; echo $x; exit 14");
    let _channel = guarded(&mut pair.hold, 0, 600_000, vec![descriptor()]);
    restored(&mut pair.hold, root, "", true);
    pair.hold.say(to_hold::Message::Loaded(Loaded {}));
    assert_eq!(pair.front.stdout.line(), "runs");
    // The hold reads what was said before it notices the end of the connection.
    pair.hold.disconnect();
    let (mut again, register) = daemon.registered();
    assert_eq!(register.root_pid, root);
    pair.front.type_line("still here");
    assert_eq!(pair.front.stdout.line(), "still here");
    assert_eq!(again.exited(), 14 << 8);
    again.note_exit(None);
    assert_eq!(pair.front.code(), 14);
}
