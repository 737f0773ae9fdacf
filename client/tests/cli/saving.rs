//! `evacuate`, `checkpoint` and `drill`: one outcome for each workload, and exit codes.

use insta::assert_snapshot;
use lifeboat_proto::v1::{SaveOutcome, SaveResult};

use crate::{
    lifeboat,
    server::{Daemon, duration, saved},
};

fn failed(workload: &str, outcome: SaveOutcome, error: &str) -> SaveResult {
    SaveResult {
        checkpoint: String::new(),
        error: error.into(),
        margin: None,
        ..saved(workload, outcome)
    }
}

#[test]
fn outcomes_are_one_line_of_json_for_each_workload() {
    let daemon = Daemon::with_outcomes(&[
        ("cache", saved("cache", SaveOutcome::Evacuated)),
        ("job-7", failed("job-7", SaveOutcome::Gone, "")),
    ]);
    let arguments = ["evacuate", "--all", "--within", "25s", "--output", "json"];
    let run = lifeboat(&daemon.socket(), &arguments);
    assert_snapshot!("evacuate-json", run.printed());
    let run = lifeboat(&daemon.socket(), &["evacuate", "cache", "job-7"]);
    assert_snapshot!("evacuate-text", run.printed());
}

#[test]
fn words_for_outcomes_and_exit_codes() {
    let late = |outcome| SaveResult {
        margin: Some(duration(-1)),
        ..saved("w", outcome)
    };
    let cases = [
        (saved("w", SaveOutcome::Evacuated), "evacuated", 0),
        (saved("w", SaveOutcome::Checkpointed), "checkpointed", 0),
        (saved("w", SaveOutcome::Rehearsed), "rehearsed", 0),
        (saved("w", SaveOutcome::TakenOver), "taken-over", 1),
        (failed("w", SaveOutcome::Gone, ""), "gone", 0),
        (
            failed("w", SaveOutcome::FailedRunning, "store refused"),
            "failed-running",
            1,
        ),
        (failed("w", SaveOutcome::Unknown, "no answer"), "unknown", 1),
        (failed("w", SaveOutcome::Skipped, "no time"), "skipped", 3),
        (late(SaveOutcome::Evacuated), "evacuated", 3),
    ];
    for (result, word, code) in cases {
        let error = result.error.clone();
        let daemon = Daemon::with_outcomes(&[("w", result)]);
        for command in ["evacuate", "checkpoint", "drill"] {
            let run = lifeboat(&daemon.socket(), &[command, "w", "--output", "json"]);
            let view: serde_json::Value = serde_json::from_str(run.stdout()).unwrap();
            assert_eq!(view["outcome"], word);
            assert_eq!(run.code(), code, "{word}");
            assert!(run.stderr().contains(&error));
            for field in [
                "workload",
                "checkpoint",
                "freeze_ms",
                "total_ms",
                "memory_bytes",
                "read_bytes",
                "uploaded_bytes",
                "margin_ms",
                "stages",
            ] {
                assert!(view.get(field).is_some(), "{field}");
            }
        }
    }
}

#[test]
fn a_failure_outweighs_a_missed_deadline() {
    let daemon = Daemon::with_outcomes(&[
        ("a", failed("a", SaveOutcome::Skipped, "no time")),
        (
            "b",
            failed("b", SaveOutcome::FailedRunning, "store refused"),
        ),
        ("c", saved("c", SaveOutcome::Evacuated)),
    ]);
    let run = lifeboat(&daemon.socket(), &["evacuate", "--all"]);
    assert_eq!(run.code(), 1);
    assert!(run.stderr().contains("lifeboat: a: skipped: no time\n"));
    assert!(
        run.stderr()
            .contains("lifeboat: b: failed-running: store refused\n")
    );
}

#[test]
fn what_is_known_is_printed_even_if_the_daemon_fails_in_the_middle() {
    let outcomes = [("a", saved("a", SaveOutcome::Evacuated))];
    let daemon = Daemon::that_breaks(&outcomes);
    let run = lifeboat(
        &daemon.socket(),
        &["evacuate", "a", "b", "--output", "json"],
    );
    assert_eq!(run.stdout().lines().count(), 1);
    assert_eq!(
        (run.code(), run.stderr()),
        (1, "lifeboat: the store is on fire\n")
    );
}

#[test]
fn a_workload_without_an_outcome_is_a_failure() {
    let daemon = Daemon::with_outcomes(&[("a", saved("a", SaveOutcome::Evacuated))]);
    let run = lifeboat(&daemon.socket(), &["evacuate", "a", "b"]);
    assert_eq!(run.code(), 1);
    assert!(
        run.stderr().contains("did not tell what became of b"),
        "{}",
        run.stderr()
    );
}

#[test]
fn a_deadline_that_the_daemon_refuses_is_a_missed_deadline() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["evacuate", "--all", "--within", "1ms"]);
    assert_eq!(run.code(), 3);
}

#[test]
fn all_of_nothing_is_done_at_once() {
    let daemon = Daemon::start();
    let run = lifeboat(&daemon.socket(), &["evacuate", "--all", "--output", "json"]);
    assert_eq!((run.code(), run.stdout()), (0, ""));
}
