//! Users have their own workloads and nobody else's; nodes that want the same one get it in turn.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    process::Output,
    time::Duration,
};

use super::support::{Hold, HoldOptions, Node, NodeOptions, TestStore, check_count, counter};

const SOON: Duration = Duration::from_secs(30);

/// Two users who need no name.
const ALICE: &str = "54321";
const BOB: &str = "54322";

fn as_user(user: &str) -> HoldOptions<'_> {
    HoldOptions {
        user: Some(user),
        ..HoldOptions::default()
    }
}

/// What the kernel says about the rights of a workload's first process.
fn rights(node: &Node, workload: &str) -> Vec<String> {
    let pid = node.listed(workload).unwrap()["pid"].as_u64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let names = [
        "Uid:",
        "Gid:",
        "Groups:",
        "CapInh:",
        "CapPrm:",
        "CapEff:",
        "CapBnd:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
    ];
    let rights = |line: &&str| names.iter().any(|name| line.starts_with(name));
    status.lines().filter(rights).map(str::to_owned).collect()
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(text.contains(words), "{words:?} is not in {text:?}");
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_ordinary_user_moves_a_program_of_their_own() {
    let store = TestStore::folder();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let argv = [&*counter()];
    let mut first = Hold::start_with(&a, "w", &as_user(ALICE), &argv);
    first.wait_for_lines(3, SOON);
    let before = rights(&a, "w");
    let ids = format!("{ALICE}\t{ALICE}\t{ALICE}\t{ALICE}");
    for line in [
        &*format!("Uid:\t{ids}"),
        &*format!("Gid:\t{ids}"),
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
    ] {
        assert!(
            before.iter().any(|right| right == line),
            "{line} is not in {before:#?}"
        );
    }
    assert!(succeeds(&a.run_as(Some(ALICE), &["list"])).contains('w'));
    succeeds(&a.run_as(Some(ALICE), &["status", "w"]));
    succeeds(&a.run_as(Some(ALICE), &["checkpoint", "w"]));
    first.wait_for_more(3, SOON);
    assert!(succeeds(&a.run_as(Some(ALICE), &["checkpoints"])).contains('w'));
    succeeds(&a.run_as(Some(ALICE), &["verify", "w"]));
    succeeds(&a.run_as(Some(ALICE), &["evacuate", "w"]));
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}\n{}", first.said(), a.log());
    let second = Hold::start_with(&b, "w", &as_user(ALICE), &argv);
    lines.extend(second.wait_for_lines(3, SOON));
    check_count(&lines);
    b.wait_for_state("w", "running", SOON);
    assert_eq!(rights(&b, "w"), before);
    // And once more, from a tree that was restored.
    succeeds(&b.run_as(Some(ALICE), &["evacuate", "w"]));
}

#[test]
fn other_users_neither_see_it_nor_touch_it() {
    let store = TestStore::folder();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let argv = [&*counter()];
    let mut alices = Hold::start_with(&a, "hers", &as_user(ALICE), &argv);
    let roots = Hold::start(&a, "roots", &argv);
    alices.wait_for_lines(3, SOON);
    roots.wait_for_lines(3, SOON);
    let bob = |arguments: &[&str]| a.run_as(Some(BOB), arguments);
    assert_eq!(succeeds(&bob(&["list", "--output", "json"])).trim(), "[]");
    for name in ["hers", "roots"] {
        for verb in ["status", "evacuate", "checkpoint"] {
            refused(&bob(&[verb, name]), &format!("there is no workload {name}"));
        }
    }
    succeeds(&bob(&["evacuate", "--all"]));
    let pid = a.listed("hers").unwrap()["pid"].to_string();
    refused(
        &bob(&["attach", "--workload", "mine", "--pid", &pid]),
        "belongs to user 54321",
    );
    let root_pid = a.listed("roots").unwrap()["pid"].to_string();
    refused(
        &bob(&["attach", "--workload", "mine", "--pid", &root_pid]),
        "belongs to user 0",
    );
    refused(&bob(&["gc"]), "only root");

    // Her checkpoints are her own as well, and her name in the store.
    succeeds(&a.run_as(Some(ALICE), &["evacuate", "hers"]));
    let (status, lines) = alices.wait_for_end(SOON);
    assert_eq!(status, 75);
    assert_eq!(
        succeeds(&bob(&["checkpoints", "--output", "json"])).trim(),
        "[]"
    );
    let hers = a.json(&["checkpoints", "hers"]);
    let id = hers[0]["checkpoint"].as_str().unwrap();
    refused(&bob(&["inspect", "hers"]), "belongs to user 54321");
    refused(&bob(&["verify", "hers"]), "belongs to user 54321");
    refused(
        &bob(&["delete", "hers", id, "--force"]),
        "belongs to user 54321",
    );
    for arguments in [&[][..], &["--fresh"], &["--take-over"]] {
        let options = HoldOptions {
            arguments,
            ..as_user(BOB)
        };
        let mut bobs = Hold::start_with(&b, "hers", &options, &argv);
        let (status, said) = bobs.wait_for_end(SOON);
        assert_eq!((status, said), (170, Vec::new()), "{}", bobs.said());
        assert!(
            bobs.said().contains("belongs to user 54321"),
            "{}",
            bobs.said()
        );
    }
    // Nothing of that has harmed it.
    let again = Hold::start_with(&b, "hers", &as_user(ALICE), &argv);
    check_count(&[lines, again.wait_for_lines(3, SOON)].concat());
}

#[test]
fn files_of_others_are_neither_read_nor_written_by_way_of_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "root's\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let path = file.display().to_string();
    let text = || std::fs::read_to_string(&file).unwrap();
    let store = TestStore::folder();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let argv = [&*counter()];
    let options = HoldOptions {
        arguments: &["--preserve", &path],
        ..as_user(ALICE)
    };
    let mut first = Hold::start_with(&a, "w", &options, &argv);
    first.wait_for_lines(3, SOON);
    // She cannot read it: it stays behind, and stays as it is.
    succeeds(&a.run_as(Some(ALICE), &["evacuate", "w"]));
    assert!(
        a.log().contains("left out: it belongs to somebody else"),
        "{}",
        a.log()
    );
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", first.said());
    let mut second = Hold::start_with(&b, "w", &options, &argv);
    second.wait_for_lines(3, SOON);
    b.wait_for_state("w", "running", SOON);
    assert_eq!(text(), "root's\n");
    // Now it is hers, and travels; on the other machine a file of that name is another one's.
    let alice: u32 = ALICE.parse().unwrap();
    std::fs::write(&file, "hers\n").unwrap();
    chown(&file, Some(alice), Some(alice)).unwrap();
    succeeds(&b.run_as(Some(ALICE), &["evacuate", "w"]));
    let (status, more) = second.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", second.said());
    lines.extend(more);
    chown(&file, Some(0), Some(0)).unwrap();
    std::fs::write(&file, "root's again\n").unwrap();
    let mut third = Hold::start_with(&a, "w", &options, &argv);
    let (status, more) = third.wait_for_end(SOON);
    assert_eq!((status, more), (171, Vec::new()), "{}", third.said());
    assert!(
        third.said().contains("ermission denied"),
        "{}",
        third.said()
    );
    assert_eq!(text(), "root's again\n");
    // Nothing is lost: with the file out of the way it goes on.
    std::fs::remove_file(&file).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let fourth = Hold::start_with(&a, "w", &options, &argv);
    lines.extend(fourth.wait_for_lines(3, SOON));
    check_count(&lines);
    assert_eq!(text(), "hers\n");
}

/// Two nodes want the same workload at the same moment: one has it, and the other one gets it when
/// the first one lets go.
#[test]
fn nodes_that_race_for_a_workload_get_it_in_turn() {
    let store = TestStore::folder();
    let nodes = ["a", "b", "c"].map(|name| Node::start(name, &store));
    let argv = [&*counter()];
    let mut first = Hold::start(&nodes[0], "w", &argv);
    first.wait_for_lines(3, SOON);
    let racing = [1, 2].map(|node| Hold::start(&nodes[node], "w", &argv));
    nodes[0].evacuate("w");
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", first.said());
    let winner = super::support::eventually("one of them has it", SOON, || {
        racing.iter().position(|hold| hold.lines().len() >= 3)
    });
    let loser = 1 - winner;
    nodes[1 + winner].wait_for_state("w", "running", SOON);
    assert_eq!(racing[loser].lines(), [""; 0], "both have it");
    nodes[1 + winner].evacuate("w");
    let [one, two] = racing;
    let (mut won, lost) = if winner == 0 { (one, two) } else { (two, one) };
    let (status, more) = won.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", won.said());
    lines.extend(more);
    lines.extend(lost.wait_for_lines(3, SOON));
    check_count(&lines);
}

/// A workload that runs is not started a second time, however long one waits.
#[test]
fn a_workload_that_lives_elsewhere_is_not_started_again() {
    let store = TestStore::folder();
    let options = NodeOptions {
        config: "lease = '3s'",
        ..NodeOptions::default()
    };
    let a = Node::start_with("a", &store, options);
    let b = Node::start("b", &store);
    let argv = [&*counter()];
    let first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    let mut second = Hold::start(&b, "w", &argv);
    let (status, lines) = second.wait_for_end(SOON);
    assert_eq!((status, lines), (170, Vec::new()), "{}", second.said());
    for word in ["runs on node a", "--take-over"] {
        assert!(second.said().contains(word), "{}", second.said());
    }
    first.wait_for_more(3, SOON);
}
