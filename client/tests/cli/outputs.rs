//! What is printed, for people and for programs.

use insta::assert_snapshot;

use crate::{
    lifeboat,
    server::{Daemon, FIRST, SECOND},
};

/// Prints of one command, in both forms.
fn both(name: &str, arguments: &[&str]) {
    let daemon = Daemon::start();
    let text = lifeboat(&daemon.socket(), arguments);
    assert_snapshot!(format!("{name}-text"), text.printed());
    let arguments = [arguments, &["--output", "json"]].concat();
    let json = lifeboat(&daemon.socket(), &arguments);
    assert_snapshot!(format!("{name}-json"), json.printed());
}

#[test]
fn list() {
    both("list", &["list"]);
}

#[test]
fn status_of_a_workload() {
    both("status", &["status", "cache"]);
}

#[test]
fn status_of_the_node() {
    both("node", &["status"]);
}

#[test]
fn notice() {
    both("notice", &["notice", "preemption", "--within", "90s"]);
    both("notice-pod", &["notice", "early", "--pod", "5f3c-77"]);
    both("notice-withdrawn", &["notice", "--withdraw"]);
}

#[test]
fn checkpoints() {
    both("checkpoints", &["checkpoints", "cache"]);
}

#[test]
fn inspect() {
    both("inspect", &["inspect", "cache"]);
}

#[test]
fn verify() {
    both("verify", &["verify", "cache", "--checkpoint", FIRST]);
}

#[test]
fn prefetch() {
    both("prefetch", &["prefetch", "cache"]);
}

#[test]
fn what_does_not_fit_is_a_failure() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["prefetch", "large"]);
    assert!(
        run.stdout().contains("there is no more room"),
        "{}",
        run.stdout()
    );
    assert_eq!(run.code(), 1);
}

#[test]
fn delete() {
    both("delete", &["delete", "cache", FIRST]);
}

#[test]
fn gc() {
    both("gc", &["gc", "--dry-run"]);
}

#[test]
fn attach() {
    both(
        "attach",
        &[
            "attach",
            "-w",
            "legacy",
            "--pid",
            "99",
            "--preserve",
            "/var/lib/legacy",
        ],
    );
}

#[test]
fn a_check_that_finds_something_missing_fails_after_printing_all() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["check"]);
    assert_snapshot!("check-text", run.stdout());
    assert_eq!(run.code(), 1);
}

#[test]
fn damage_is_a_failure_and_says_where() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["verify", "damaged"]);
    assert!(
        run.stdout()
            .contains("packs/ab/abcd: wrong digest at byte 12"),
        "{}",
        run.stdout()
    );
    assert_eq!(run.code(), 1);
}

#[test]
fn the_latest_checkpoint_needs_force() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["delete", "cache", SECOND]);
    assert_eq!(
        (run.code(), run.stderr()),
        (1, "lifeboat: cache can still be restored from it\n")
    );
    let run = lifeboat(&daemon.socket(), &["delete", "cache", SECOND, "--force"]);
    assert_eq!(run.code(), 0);
}

#[test]
fn the_fields_that_scripts_rely_on_are_there() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["list", "--output", "json"]);
    let list: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(run.printed()).unwrap();
    for field in [
        "name",
        "state",
        "pid",
        "memory_bytes",
        "unsaved_bytes",
        "time_to_safe_ms",
        "last_checkpoint",
    ] {
        assert!(
            list.iter().all(|workload| workload.contains_key(field)),
            "{field}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let daemon = Daemon::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("lifeboat"));
    let run = command
        .arg("--socket")
        .arg(daemon.socket())
        .arg("list")
        .stdout(writer)
        .output();
    let run = run.unwrap();
    assert_eq!(
        (run.status.code(), run.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
}
