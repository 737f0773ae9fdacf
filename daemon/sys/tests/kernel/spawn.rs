//! What children get, as children see it.

use std::{
    fs::File,
    io::{Seek, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Command, Output, Stdio},
};

use crate::support;
use lifeboat_sys::spawn::{ChildSetup, FIRST_FD, LAST_FD, SpawnError};
use nix::sys::signal::{self, SigHandler, SigSet, SigmaskHow};
use rustix::{fs::OFlags, process::Signal, pty::OpenptFlags};

fn file_with(content: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

fn run(setup: ChildSetup, script: &str) -> Output {
    let mut command = Command::new("/bin/bash");
    command.args(["-c", script]);
    setup.apply(&mut command);
    command.output().unwrap()
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap().trim()
}

#[test]
fn descriptors_have_their_numbers_even_when_sources_and_numbers_cross() {
    let (a, b, c) = (file_with("a"), file_with("b"), file_with("c"));
    let (at, bt, ct) = (a.as_raw_fd(), b.as_raw_fd(), c.as_raw_fd());
    let mut setup = ChildSetup::new();
    // A cycle: each takes the number of the next.
    setup
        .pass_fd(a, bt)
        .unwrap()
        .pass_fd(b, ct)
        .unwrap()
        .pass_fd(c, at)
        .unwrap();
    let output = run(setup, &format!("cat <&{bt} <&{bt}; cat <&{ct}; cat <&{at}"));
    assert_eq!(text(&output), "abc");
}

#[test]
fn a_descriptor_can_keep_its_number() {
    let file = file_with("same");
    let number = file.as_raw_fd();
    let mut setup = ChildSetup::new();
    setup.pass_fd(file, number).unwrap();
    assert_eq!(text(&run(setup, &format!("cat <&{number}"))), "same");
}

#[test]
fn the_child_gets_nothing_else_and_the_parent_keeps_close_on_exec() {
    let file = file_with("x");
    let other = file.try_clone().unwrap();
    let mut setup = ChildSetup::new();
    setup.pass_fd(file, LAST_FD).unwrap();
    let show = "ls /proc/self/fd | sort -n | tr '\\n' ' '";
    // What this process itself was started with may not be close-on-exec.
    let inherited = run(ChildSetup::new(), show);
    let output = run(setup, show);
    assert_eq!(text(&output), format!("{} {LAST_FD}", text(&inherited)));
    assert!(
        rustix::io::fcntl_getfd(&other)
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
}

#[test]
fn a_failed_exec_is_reported_whatever_numbers_were_passed() {
    let mut setup = ChildSetup::new();
    for number in FIRST_FD..FIRST_FD + 32 {
        setup.pass_fd(file_with("x"), number).unwrap();
    }
    let mut command = Command::new("/nonexistent/program");
    setup.apply(&mut command);
    assert_eq!(
        command.spawn().unwrap_err().kind(),
        std::io::ErrorKind::NotFound
    );
}

#[test]
fn impossible_numbers_are_refused() {
    let mut setup = ChildSetup::new();
    let refused = setup.pass_fd(file_with("x"), 2).unwrap_err();
    assert!(matches!(refused, SpawnError::Number(2)));
    setup.pass_fd(file_with("x"), 100).unwrap();
    let refused = setup.pass_fd(file_with("x"), 100).unwrap_err();
    assert!(matches!(refused, SpawnError::Twice(100)));
}

#[test]
fn signals_are_as_in_a_fresh_login_when_asked_for() {
    // In a process of its own: dispositions are shared by all tests of this one.
    support::fork(|| {
        for number in [
            signal::SIGPIPE,
            signal::SIGUSR1,
            signal::SIGTERM,
            signal::SIGHUP,
        ] {
            // SAFETY: ignoring a signal installs no handler.
            unsafe { signal::signal(number, SigHandler::SigIgn) }.unwrap();
        }
        signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).unwrap();
        let show = "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2 | tr '\\n' ' '";
        let inherited = run(ChildSetup::new(), show);
        assert_ne!(text(&inherited), "0000000000000000 0000000000000000");
        let mut setup = ChildSetup::new();
        setup.default_signals();
        let reset = run(setup, show);
        assert_eq!(text(&reset), "0000000000000000 0000000000000000");
    })
    .assert_success();
}

#[test]
fn session_and_umask_are_set() {
    let mut setup = ChildSetup::new();
    setup.session_leader().umask(0o027);
    let output = run(setup, "echo $(cut -d' ' -f6 /proc/$$/stat) $$ $(umask)");
    let words: Vec<&str> = text(&output).split(' ').collect();
    assert_eq!(words[0], words[1]);
    assert_eq!(words[2], "0027");
}

#[test]
fn the_terminal_becomes_the_controlling_one() {
    let pty = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&pty).unwrap();
    rustix::pty::unlockpt(&pty).unwrap();
    let name = rustix::pty::ptsname(&pty, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    let mut setup = ChildSetup::new();
    setup.controlling_terminal(terminal);
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", "exec 3<>/dev/tty && tty <&3"])
        .stdin(Stdio::null());
    setup.apply(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_child_dies_with_the_thread_that_started_it() {
    let mut child = std::thread::spawn(|| {
        let mut setup = ChildSetup::new();
        setup.parent_death_signal(Signal::TERM).default_signals();
        let mut command = Command::new("/bin/sleep");
        command.arg("1000");
        setup.apply(&mut command);
        command.spawn().unwrap()
    })
    .join()
    .unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn one_setup_serves_every_child_of_its_command() {
    let file = file_with("again");
    let mut setup = ChildSetup::new();
    setup.pass_fd(file, 77).unwrap();
    let mut command = Command::new("/bin/cat");
    command.arg("/dev/fd/77");
    setup.apply(&mut command);
    for _ in 0..3 {
        assert_eq!(text(&command.output().unwrap()), "again");
    }
    assert!(
        File::open("/proc/self/fd/77").is_ok(),
        "the number stays reserved"
    );
}
