//! Names and numbers that lead nowhere.

use std::{process::Output, time::Duration};

use crate::support::{Hold, Node, TestStore, counter};

const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn refused(output: &Output, status: i32, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(text.contains(words), "{words:?} is not in {text:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn names_that_are_none_are_refused_by_the_command_line() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let long = "x".repeat(300);
    for name in ["../etc", "a/b", "", "a b", ".", "-", "ü", "a\nb", &long] {
        let output = node.run(&["run", &format!("--workload={name}"), "--", "true"]);
        refused(&output, 2, "--workload");
        let output = node.run(&["evacuate", "--", name]);
        refused(&output, 2, "invalid value");
    }
}

#[test]
fn workloads_and_checkpoints_that_are_not_there_are_not_found() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    for verb in ["status", "evacuate", "checkpoint"] {
        refused(
            &node.run(&[verb, "nobody"]),
            1,
            "there is no workload nobody",
        );
    }
    let id = "01a210cf-8d83-7371-85e4-01d971135ce4";
    refused(
        &node.run(&["inspect", "nobody"]),
        1,
        "nobody has no checkpoint",
    );
    refused(
        &node.run(&["verify", "nobody"]),
        1,
        "nobody has no checkpoint",
    );
    refused(
        &node.run(&["delete", "nobody", id]),
        1,
        "nobody has no checkpoint",
    );
    refused(
        &node.run(&["delete", "nobody", "not-an-id"]),
        2,
        "invalid value",
    );
    assert_eq!(node.json(&["checkpoints", "nobody"]), serde_json::json!([]));
}

#[test]
fn processes_that_are_not_there_cannot_be_attached() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let gone = ended.id().to_string();
    ended.wait().unwrap();
    for pid in [&*gone, "0", "4194304", "4294967295"] {
        let output = node.run(&["attach", "--workload", "w", "--pid", pid]);
        refused(&output, 1, &format!("there is no process {pid}"));
    }
    let output = node.run(&["attach", "--workload", "w", "--pid", "-1"]);
    refused(&output, 2, "--pid");
    assert_eq!(node.listed("w"), None);
}

#[test]
fn a_name_belongs_to_one_hold_at_a_time() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let argv = [&*counter()];
    let mut holds = [
        Hold::start(&node, "w", &argv),
        Hold::start(&node, "w", &argv),
    ];
    let (loser, (status, lines)) =
        crate::support::eventually("one of them is refused", SOON, || {
            let loser = holds.iter_mut().position(|hold| hold.ended().is_some())?;
            Some((loser, holds[loser].wait_for_end(SOON)))
        });
    assert_eq!((status, lines), (170, Vec::new()));
    let said = holds[loser].said();
    assert!(said.contains("already runs on this node"), "{said}");
    holds[1 - loser].wait_for_lines(3, SOON);
    let mut third = Hold::start(&node, "w", &argv);
    assert_eq!(third.wait_for_end(SOON).0, 170, "{}", third.said());
    holds[1 - loser].wait_for_more(3, SOON);
    node.evacuate("w");
}

#[test]
fn a_command_that_cannot_be_started_is_no_workload() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    for command in ["/does/not/exist", "/etc/passwd", "/"] {
        let mut hold = Hold::start(&node, "w", &[command]);
        let (status, _) = hold.wait_for_end(SOON);
        assert_eq!(status, 170, "{}", hold.said());
        assert!(hold.said().contains(command), "{}", hold.said());
    }
    // The name is free again, and what it is used for next is started, not restored.
    let mut hold = Hold::start(&node, "w", &["sh", "-c", "echo here; exit 9"]);
    assert_eq!(hold.wait_for_end(SOON), (9, vec!["here".to_owned()]));
}
