//! The daemon dies at every stage of a save or a restore, as by the kernel's out-of-memory killer.
//! Its successor on the same state finds out what happened: the workload runs on here, or goes on
//! elsewhere from a committed checkpoint; never neither, never both.
//!
//! "Both" would show as lines that are there twice: a second hold on another node waits for the
//! workload from the moment of the daemon's death until the end of each test.

use std::time::Duration;

use super::support::{Hold, HoldOptions, Node, TestStore, check_count, counter, eventually};

const SOON: Duration = Duration::from_secs(30);

/// What must become of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    RunsOn,
    GoesOnElsewhere,
}

use Fate::{GoesOnElsewhere, RunsOn};

/// The daemon dies at `point` of an evacuation.
fn evacuation_dies_at(point: &str, fate: Fate) {
    let store = TestStore::folder();
    let mut a = Node::start_to_die_at("a", &store, point);
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
    let mut a = Node::start_to_die_at("a", &store, point);
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
    let mut a = Node::start_to_die_at("a", &store, "committing");
    let b = Node::start("b", &store);
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.json(&["checkpoint", "w"]);
    first.wait_for_more(3, SOON);
    a.run(&["evacuate", "w"]);
    a.wait_for_death(SOON);
    let options = HoldOptions { arguments: &["--take-over"], ..HoldOptions::default() };
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
