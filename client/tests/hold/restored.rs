//! A restore: somebody else puts a process in place, which becomes the hold's child.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
};

use lifeboat_proto::hold::{Guard, Loaded, Restored, Restoring, to_hold};

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

fn restored(hold: &mut Hold, root_pid: u32, pending: &'static str, loading: Vec<OwnedFd>) {
    let restored = Restored {
        root_pid,
        checkpoint: CHECKPOINT.into(),
        pending_stdin: pending.as_bytes().into(),
        loading: !loading.is_empty(),
    };
    hold.say_with(to_hold::Message::Restored(restored), loading);
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
    restored(&mut pair.hold, root, "old input\n", Vec::new());
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
    restored(&mut pair.hold, root, "", Vec::new());
    assert_eq!(pair.hold.exited(), 13 << 8);
    pair.hold.note_exit(None);
    assert_eq!(pair.front.code(), 13);
}

#[test]
fn a_daemon_that_dies_while_memory_is_missing_takes_the_workload_with_it() {
    let daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    restoring(&mut pair.hold);
    let root = put_in_place(&mut pair.hold, "echo runs; read x");
    let guarded = [descriptor(), descriptor(), descriptor()];
    let links: Vec<PathBuf> = guarded.iter().map(link).collect();
    let [first, second, third] = guarded;
    restored(&mut pair.hold, root, "", vec![first, second]);
    pair.hold
        .say_with(to_hold::Message::Guard(Guard {}), vec![third]);
    assert_eq!(pair.front.stdout.line(), "runs");
    let directory = format!("/proc/{}/fd", pair.hold.pid);
    crate::program::eventually("all are guarded", || {
        let entries = std::fs::read_dir(&directory).unwrap();
        let open: Vec<PathBuf> = entries
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .collect();
        links.iter().all(|link| open.contains(link))
    });
    pair.hold.disconnect();
    assert_eq!(pair.front.code_with_stdin_open(), 171);
    let said = pair.front.stderr.rest_text();
    assert!(said.contains("its checkpoint is intact"), "{said}");
}

#[test]
fn once_memory_is_in_the_daemon_may_die() {
    let daemon = Daemon::new();
    let mut pair = Pair::start(&daemon, &mut hold(&daemon.socket(), "echo started afresh"));
    restoring(&mut pair.hold);
    let root = put_in_place(&mut pair.hold, "echo runs; read x; echo $x; exit 14");
    restored(&mut pair.hold, root, "", vec![descriptor()]);
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
