//! Errors that help.

use std::{os::unix::net::UnixListener, path::Path};

use tempfile::TempDir;

use crate::{lifeboat, server::Daemon};

#[test]
fn a_daemon_that_is_not_there_is_told_apart_from_one_that_does_not_run() {
    let run = lifeboat(Path::new("/nonexistent/lifeboatd.sock"), &["list"]);
    assert_eq!(run.code(), 4);
    assert!(
        run.stderr()
            .starts_with("lifeboat: no daemon at /nonexistent/lifeboatd.sock")
    );
    assert!(run.stderr().contains("--socket"), "{}", run.stderr());

    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("old.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let run = lifeboat(&socket, &["list"]);
    assert_eq!(run.code(), 4);
    assert!(run.stderr().contains("does not run"), "{}", run.stderr());

    let run = lifeboat(Path::new("http://127.0.0.1:1"), &["list"]);
    assert_eq!(run.code(), 4);
    assert!(
        run.stderr().contains("http://127.0.0.1:1"),
        "{}",
        run.stderr()
    );
}

#[test]
fn the_daemons_words_reach_the_user() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["status", "nobody"]);
    assert_eq!(
        (run.code(), run.stdout(), run.stderr()),
        (1, "", "lifeboat: there is no workload \"nobody\" here\n")
    );
    let run = lifeboat(&daemon.socket(), &["attach", "-w", "x", "--pid", "1"]);
    assert_eq!(
        (run.code(), run.stderr()),
        (1, "lifeboat: process 1 is not yours\n")
    );
}

#[test]
fn wrong_usage_is_code_2_before_anything_is_contacted() {
    let nowhere = Path::new("/nonexistent/lifeboatd.sock");
    for arguments in [
        &["evacuate"][..],
        &["evacuate", "../x"],
        &["notice"],
        &["notice", "early", "--withdraw"],
        &["evacuate", "a", "--within", "soon"],
        &["inspect", "a", "--checkpoint", "latest"],
        &["run", "--workload", "a"],
        &["run", "--", "true"],
        &["nonsense"],
    ] {
        let run = lifeboat(nowhere, arguments);
        assert_eq!(run.code(), 2, "{arguments:?}: {}", run.stderr());
    }
    let run = lifeboat(Path::new("http://127.0.0.1:1"), &["run", "-w", "a", "true"]);
    assert_eq!(run.code(), 2);
}

#[test]
fn the_socket_can_be_named_by_a_variable() {
    let daemon = Daemon::start();
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("lifeboat"));
    let run = command
        .env("LIFEBOAT_SOCKET", daemon.socket())
        .arg("list")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0));
}
