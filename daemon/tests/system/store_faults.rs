//! The store fails, in every way that stores do. The workload runs on, the error says what it was,
//! and when the store is back the next evacuation succeeds.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use super::support::{Door, Hold, Node, NodeOptions, TestStore, check_count, counter};

const SOON: Duration = Duration::from_secs(30);

/// The budget of evacuations that cannot succeed.
const WITHIN: Duration = Duration::from_secs(4);

/// How much later than its budget an evacuation may return: the workload has to be let go.
const LATE: Duration = Duration::from_secs(2);

/// Exit statuses of `lifeboat evacuate`.
const FAILED: i32 = 1;
const DEADLINE_MISSED: i32 = 3;

fn evacuate_in_vain(node: &Node, hold: &mut Hold) -> Output {
    let within = format!("{}s", WITHIN.as_secs());
    let began = Instant::now();
    let output = node.run(&["evacuate", "w", "--within", &within]);
    let took = began.elapsed();
    assert!(
        took < WITHIN + LATE,
        "it took {took:?}: {output:?}\n{}",
        node.log()
    );
    // It runs on.
    assert_eq!(hold.ended(), None, "{}", hold.said());
    hold.wait_for_more(3, SOON);
    node.wait_for_state("w", "running", SOON);
    output
}

#[track_caller]
fn says(output: &Output, status: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// The store is back: the workload moves.
fn moves(a: &Node, b: &Node, mut hold: Hold) {
    a.evacuate("w");
    let (status, mut lines) = hold.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", hold.said());
    let second = Hold::start(b, "w", &[&counter()]);
    lines.extend(second.wait_for_lines(3, SOON));
    check_count(&lines);
}

fn shut(door: Door, words: &[&str]) {
    let (store, mut proxy) = TestStore::s3_behind_a_door();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let mut hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    proxy.set(door);
    let output = evacuate_in_vain(&a, &mut hold);
    proxy.set(Door::Open);
    says(&output, DEADLINE_MISSED, words);
    moves(&a, &b, hold);
}

#[test]
fn connections_are_refused() {
    shut(Door::Refuses, &["w: failed-running", "refused", "attempts"]);
}

#[test]
fn the_server_is_busy() {
    shut(
        Door::Busy,
        &["w: failed-running", "503", "SlowDown", "attempts"],
    );
}

#[test]
fn connections_are_reset_in_the_middle() {
    shut(
        Door::Resets,
        &["w: failed-running", "connection", "attempts"],
    );
}

#[test]
fn the_server_hangs() {
    shut(Door::Hangs, &["w: failed-running", "deadline passed"]);
}

/// A file system of its own, of one mebibyte.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "lifeboat-test"])
            .arg(at)
            .status();
        assert!(mounted.unwrap().success(), "these tests run as root");
        Self(at.to_owned())
    }

    fn fill(&self) {
        let filler = std::fs::File::create(self.0.join("filler")).unwrap();
        let mut bytes = std::io::repeat(1);
        let error = std::io::copy(&mut bytes, &mut &filler).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[test]
fn the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path());
    let store = TestStore::at(folder);
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let mut hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    disk.fill();
    let output = evacuate_in_vain(&a, &mut hold);
    disk.make_room();
    says(&output, FAILED, &["w: failed-running", "no room"]);
    moves(&a, &b, hold);
}

/// The daemon comes back with another access to its store; the hold finds it by itself.
fn changed(access: impl Fn(&TestStore) -> (String, Vec<(String, String)>), words: &[&str]) {
    let store = TestStore::s3();
    let (mut a, b) = (Node::start("a", &store), Node::start("b", &store));
    let mut hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    let (url, environment) = access(&store);
    a.restart(&url, &environment);
    a.wait_for_state("w", "running", SOON);
    let output = evacuate_in_vain(&a, &mut hold);
    says(&output, FAILED, words);
    // A new one is not started unprotected, nor from the beginning.
    let mut other = Hold::start(&a, "other", &["true"]);
    let (status, _) = other.wait_for_end(SOON);
    assert_eq!(status, 170, "{}", other.said());
    for word in &words[1..] {
        assert!(
            other.said().contains(word),
            "{word:?} is not in {}",
            other.said()
        );
    }
    a.revive(&store);
    a.wait_for_state("w", "running", SOON);
    moves(&a, &b, hold);
}

#[test]
fn the_key_is_wrong() {
    changed(
        TestStore::with_wrong_key,
        &["w: failed-running", "access denied", "secret key"],
    );
}

#[test]
fn the_bucket_is_missing() {
    changed(
        TestStore::without_bucket,
        &["w: failed-running", "no such bucket"],
    );
}

/// The store is away while the daemon starts; the daemon needs no second start to get over that.
#[test]
fn the_store_is_away_when_the_daemon_comes_back() {
    let (store, mut proxy) = TestStore::s3_behind_a_door();
    let options = NodeOptions {
        config: "lease = '3s'",
        ..NodeOptions::default()
    };
    let mut a = Node::start_with("a", &store, options);
    let b = Node::start("b", &store);
    let hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    proxy.set(Door::Refuses);
    a.revive(&store);
    a.wait_for_state("w", "running", SOON);
    let output = a.run(&["evacuate", "w", "--within", "4s"]);
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    hold.wait_for_more(3, SOON);
    proxy.set(Door::Open);
    a.wait_for_state("w", "running", SOON);
    moves(&a, &b, hold);
}

/// The store does it, and the answer is lost; so is what the daemon asks to find out, for a while.
#[test]
fn a_commit_whose_answer_is_lost_counts() {
    let store = TestStore::folder();
    let faults = "replace.lose@1;get.fail:denied@2-5";
    let options = NodeOptions {
        faults,
        ..NodeOptions::default()
    };
    let (a, b) = (
        Node::start_with("a", &store, options),
        Node::start("b", &store),
    );
    let hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    moves(&a, &b, hold);
    let log = a.log();
    assert!(log.contains("the answer to a commit was lost"), "{log}");
    assert!(log.contains("outcome of a commit still unknown"), "{log}");
}

/// The store does not do it, and that it did not is not known for a while.
#[test]
fn a_commit_that_was_lost_does_not_count() {
    let store = TestStore::folder();
    let faults = "replace.fail:unknown@1;get.fail:denied@2-5";
    let options = NodeOptions {
        faults,
        ..NodeOptions::default()
    };
    let (a, b) = (
        Node::start_with("a", &store, options),
        Node::start("b", &store),
    );
    let mut hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    let output = a.run(&["evacuate", "w"]);
    says(&output, FAILED, &["w: failed-running", "did not happen"]);
    assert_eq!(hold.ended(), None, "{}", hold.said());
    hold.wait_for_more(3, SOON);
    moves(&a, &b, hold);
}

/// An answer that is lost is made good for by reading back: nobody notices.
#[test]
fn answers_of_the_other_writes_may_be_lost_too() {
    let store = TestStore::folder();
    let faults = "put.lose@1;create.lose@1-2;replace.lose@1";
    let options = NodeOptions {
        faults,
        ..NodeOptions::default()
    };
    let (a, b) = (
        Node::start_with("a", &store, options),
        Node::start("b", &store),
    );
    let hold = Hold::start(&a, "w", &[&counter()]);
    hold.wait_for_lines(3, SOON);
    moves(&a, &b, hold);
}

/// The commit was done, its answer was lost, and before the node could find that out another one had
/// restored the workload and taken a checkpoint of its own: the head does not name the commit any more.
#[test]
fn a_commit_that_a_successor_has_gone_on_from_does_not_wake_the_tree_up() {
    let store = TestStore::folder();
    let options = NodeOptions {
        faults: "replace.lose@1;get.fail:denied@2-16",
        ..NodeOptions::default()
    };
    let (a, b) = (
        Node::start_with("a", &store, options),
        Node::start("b", &store),
    );
    let mut first = Hold::start(&a, "w", &[&counter()]);
    first.wait_for_lines(3, SOON);
    let (evacuated, second, before) = std::thread::scope(|scope| {
        let evacuated = scope.spawn(|| a.run(&["evacuate", "w"]));
        let second = Hold::start(&b, "w", &[&counter()]);
        second.wait_for_lines(3, SOON);
        b.wait_for_state("w", "running", SOON);
        b.json(&["checkpoint", "w"]);
        let before = first.lines();
        (evacuated.join().unwrap(), second, before)
    });
    let (status, lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{evacuated:?}\n{}\n{}", first.said(), a.log());
    assert_eq!(lines, before, "the workload ran twice");
    says(&evacuated, FAILED, &["w: taken-over", "node b"]);
    // What has the workload now is not disturbed.
    second.wait_for_more(2, SOON);
    b.evacuate("w");
}
