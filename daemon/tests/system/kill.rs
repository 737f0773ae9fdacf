//! The daemon dies at every stage of a save or a restore, as by the kernel's out-of-memory killer.
//! Its successor on the same state finds out what happened: the workload runs on here, or goes on
//! elsewhere from a committed checkpoint; never neither, never both.
//!
//! "Both" would show as lines that are there twice: a second hold on another node waits for the
//! workload from the moment of the daemon's death until the end of each test.

use std::time::Duration;

use super::support::{
    Hold, HoldOptions, Node, NodeOptions, TestStore, check_count, counter, eventually,
};

const SOON: Duration = Duration::from_secs(30);

/// What must become of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    RunsOn,
    GoesOnElsewhere,
}

use Fate::{GoesOnElsewhere, RunsOn};

fn dying_at(name: &str, store: &TestStore, point: &str) -> Node {
    let options = NodeOptions {
        dies_at: point,
        ..NodeOptions::default()
    };
    Node::start_with(name, store, options)
}

/// The daemon dies at `point` of an evacuation.
fn evacuation_dies_at(point: &str, fate: Fate) {
    let store = TestStore::folder();
    let mut a = dying_at("a", &store, point);
    let b = Node::start("b", &store);
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    let said = a.run(&["evacuate", "w"]);
    assert!(
        !said.status.success(),
        "a daemon that died confirms nothing: {said:?}"
    );
    a.wait_for_death(SOON);
    let second = Hold::start(&b, "w", &argv);
    a.revive(&store);
    match fate {
        RunsOn => {
            first.wait_for_more(3, SOON);
            a.wait_for_state("w", "running", SOON);
            assert_eq!(first.ended(), None, "{}", first.said());
            assert_eq!(second.lines(), [""; 0], "the workload runs twice");
            a.evacuate("w");
        }
        GoesOnElsewhere => {}
    }
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}\n{}", first.said(), a.log());
    second.wait_for_lines(3, SOON);
    b.wait_for_state("w", "running", SOON);
    lines.extend(second.wait_for_more(2, SOON));
    check_count(&lines);
    nothing_is_left(&a);
}

/// The daemon dies at `point` of a checkpoint that lets the workload run on.
fn checkpoint_dies_at(point: &str) {
    let store = TestStore::folder();
    let mut a = dying_at("a", &store, point);
    let b = Node::start("b", &store);
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    let said = a.run(&["checkpoint", "w"]);
    assert!(
        !said.status.success(),
        "a daemon that died confirms nothing: {said:?}"
    );
    a.wait_for_death(SOON);
    let second = Hold::start(&b, "w", &argv);
    // It does not wait for the successor.
    first.wait_for_more(3, SOON);
    a.revive(&store);
    a.wait_for_state("w", "running", SOON);
    first.wait_for_more(3, SOON);
    // What is listed can be relied on.
    for checkpoint in a.json(&["checkpoints", "w"]).as_array().unwrap() {
        let id = checkpoint["checkpoint"].as_str().unwrap();
        let verified = a.run(&["verify", "w", "--checkpoint", id]);
        assert!(verified.status.success(), "{verified:?}");
    }
    assert_eq!(second.lines(), [""; 0], "the workload runs twice");
    a.evacuate("w");
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}\n{}", first.said(), a.log());
    lines.extend(second.wait_for_lines(3, SOON));
    check_count(&lines);
    nothing_is_left(&a);
}

/// A node that dies while it is not known whether its commit happened, and a store in which
/// somebody else has the workload when it comes back.
#[test]
fn a_frozen_tree_that_was_taken_over_does_not_wake_up() {
    let store = TestStore::folder();
    let mut a = dying_at("a", &store, "committing");
    let b = Node::start("b", &store);
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.json(&["checkpoint", "w"]);
    first.wait_for_more(3, SOON);
    a.run(&["evacuate", "w"]);
    a.wait_for_death(SOON);
    let options = HoldOptions {
        arguments: &["--take-over"],
        ..HoldOptions::default()
    };
    let second = Hold::start_with(&b, "w", &options, &argv);
    second.wait_for_lines(3, SOON);
    b.wait_for_state("w", "running", SOON);
    let before = first.lines();
    a.revive(&store);
    let (status, lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}\n{}", first.said(), a.log());
    assert_eq!(lines, before, "the workload ran twice");
    check_count(&lines);
    // The new owner's right is untouched.
    second.wait_for_more(2, SOON);
    b.evacuate("w");
    nothing_is_left(&a);
}

/// The daemon dies at `point` of a restore. Either the hold goes on with its successor, or it ends
/// and says so; the checkpoint is intact and can be restored by another hold then.
fn restore_dies_at(point: &str) {
    let store = TestStore::folder();
    let a = Node::start("a", &store);
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.evacuate("w");
    let (status, before) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", first.said());
    // A claimer has to wait for the lease of one that died.
    let options = NodeOptions {
        dies_at: point,
        config: "lease = '3s'",
        ..NodeOptions::default()
    };
    let mut b = Node::start_with("b", &store, options);
    let mut second = Hold::start(&b, "w", &argv);
    b.wait_for_death(SOON);
    b.revive(&store);
    goes_on(&a, &b, &mut second, &before, &argv);
}

/// The workload goes on from `before`: in `second`, or else in a hold on `a` from its checkpoint.
fn goes_on(a: &Node, b: &Node, second: &mut Hold, before: &[String], argv: &[&str]) {
    let ended = eventually("the second hold goes on or ends", SOON, || {
        match second.ended() {
            None if second.lines().len() < 3 => None,
            ended => Some(ended),
        }
    });
    if let Some(status) = ended {
        assert_eq!(status, 171, "{}\n{}", second.said(), b.log());
        assert!(second.said().contains("intact"), "{}", second.said());
    } else {
        b.wait_for_state("w", "running", SOON);
        second.wait_for_more(3, SOON);
        b.evacuate("w");
        assert_eq!(second.wait_for_end(SOON).0, 75, "{}", second.said());
    }
    let (_, middle) = second.wait_for_end(SOON);
    let middle = last_attempt(before, &middle);
    check_count(&[before, middle].concat());
    let third = Hold::start(a, "w", argv);
    let after = third.wait_for_lines(3, SOON);
    a.wait_for_state("w", "running", SOON);
    if ended.is_some() {
        check_count(&[before, &after].concat());
    } else {
        check_count(&[before, middle, &after].concat());
    }
}

/// The lines of the last attempt to restore. One before it may have run for a moment before its
/// daemon died: a crash, after which the checkpoint counts.
fn last_attempt<'a>(before: &[String], lines: &'a [String]) -> &'a [String] {
    let first = format!("count {}", before.len());
    let begin = lines.iter().rposition(|line| *line == first);
    let (broken_off, last) = lines.split_at(begin.unwrap_or(0));
    check_count(&[before, broken_off].concat());
    last
}

/// No journal entry and no work directory of CRIU remain.
fn nothing_is_left(node: &Node) {
    let journal = node.folder().join("state/journal");
    eventually("the journal is empty", SOON, || {
        std::fs::read_dir(&journal)
            .unwrap()
            .next()
            .is_none()
            .then_some(())
    });
}

/// A test for each place.
macro_rules! killed {
    ($how:ident: $($test:ident $point:literal $($fate:ident)?,)*) => { $(
        #[test]
        fn $test() {
            $how($point $(, $fate)?);
        }
    )* };
}

mod evacuation {
    use super::{GoesOnElsewhere, RunsOn, evacuation_dies_at};

    killed! { evacuation_dies_at:
        at_journal "journal" RunsOn,
        at_dump "dump" RunsOn,
        at_frozen "frozen" RunsOn,
        at_describe "describe" RunsOn,
        at_files "files" RunsOn,
        at_prove "prove" RunsOn,
        at_read "read" RunsOn,
        at_upload_begun "upload-begun" RunsOn,
        at_upload "upload" RunsOn,
        at_manifest "manifest" RunsOn,
        at_committing_journaled "committing-journaled" RunsOn,
        at_committing "committing" RunsOn,
        at_head_written "head-written" GoesOnElsewhere,
        at_commit "commit" GoesOnElsewhere,
        at_told "told" GoesOnElsewhere,
        at_release "release" GoesOnElsewhere,
    }
}

mod checkpoint {
    use super::checkpoint_dies_at;

    killed! { checkpoint_dies_at:
        at_journal "journal",
        at_dump "dump",
        at_frozen "frozen",
        at_describe "describe",
        at_files "files",
        at_prove "prove",
        at_read "read",
        at_release "release",
        at_upload_begun "upload-begun",
        at_upload "upload",
        at_manifest "manifest",
        at_head_written "head-written",
        at_commit "commit",
    }
}

mod restore {
    use super::restore_dies_at;

    killed! { restore_dies_at:
        at_claimed "restore-claimed",
        at_opened "restore-opened",
        at_rebuilt "restore-rebuilt",
        at_resumed "restore-resumed",
        at_loaded "restore-loaded",
    }
}
