//! A drill rehearses an eviction: everything but the commit, and the workload runs on.

use std::time::Duration;

use super::support::{Hold, Node, NodeOptions, TestStore, check_count, counter};

const SOON: Duration = Duration::from_secs(30);

/// A drill of a counting program on a node with this configuration.
fn rehearse(config: &str) {
    let store = TestStore::folder();
    let options = NodeOptions {
        config,
        ..NodeOptions::default()
    };
    let node = Node::start_with("a", &store, options);
    let program = counter();
    let mut hold = Hold::start(&node, "counter", &[&program]);
    hold.wait_for_lines(3, SOON);
    let result = node.json(&["drill", "counter", "--within", "20s"]);
    assert_eq!(result["outcome"], "rehearsed", "{result}\n{}", node.log());
    assert!(result["checkpoint"].is_null(), "{result}");
    let margin = result["margin_ms"].as_i64().unwrap();
    assert!((1..20_000).contains(&margin), "{result}");
    // It runs on, and nothing was committed.
    hold.wait_for_more(3, SOON);
    let shown = node.json(&["status", "counter"]);
    assert_eq!(shown["state"], "running", "{shown}");
    assert!(shown["last_checkpoint"].is_null(), "{shown}");
    let drill = &shown["last_drill"];
    assert!(
        drill["error"].is_null() && drill["margin_ms"].is_number(),
        "{shown}"
    );
    assert!(store.files("drills").is_empty());
    if config.contains("enabled = false") {
        assert!(store.files("packs").is_empty());
    }
    // The real thing works afterwards.
    node.evacuate("counter");
    let (status, lines) = hold.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", hold.said());
    check_count(&lines);
}

#[test]
fn an_eviction_is_rehearsed_and_nothing_is_left_of_it() {
    rehearse("[precopy]\nenabled = false");
}

#[test]
fn an_eviction_is_rehearsed_with_what_was_copied_ahead() {
    rehearse("[precopy]\nshortest = '100ms'");
}

#[test]
fn a_drill_that_fails_says_so_and_harms_nobody() {
    let store = TestStore::folder();
    let options = NodeOptions {
        faults: "put.delay:60s",
        ..NodeOptions::default()
    };
    let node = Node::start_with("a", &store, options);
    let program = counter();
    let hold = Hold::start(&node, "counter", &[&program]);
    hold.wait_for_lines(3, SOON);
    let result = node.json(&["drill", "counter", "--within", "2s"]);
    assert_eq!(result["outcome"], "failed-running", "{result}");
    let lines = hold.wait_for_more(3, SOON);
    check_count(&lines);
    let shown = node.json(&["status", "counter"]);
    assert_eq!(shown["state"], "running", "{shown}");
    assert!(shown["last_drill"]["error"].is_string(), "{shown}");
}
