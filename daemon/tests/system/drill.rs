//! A drill rehearses an eviction: everything but the commit, and the workload runs on.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use super::support::{Hold, Node, NodeOptions, TestStore, check_count, counter, eventually};

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

/// The daemon rehearses by itself, and everybody can see how that went.
#[test]
fn by_timer_each_workload_s_margin_is_known() {
    let store = TestStore::folder();
    let port = free_port();
    let config = format!(
        "metrics_listen = '127.0.0.1:{port}'\n[drill]\ninterval = '1s'\nwithin = '20s'\n\
         [precopy]\nshortest = '100ms'"
    );
    let options = NodeOptions {
        config: &config,
        ..NodeOptions::default()
    };
    let node = Node::start_with("a", &store, options);
    assert!(node.json(&["status"])["drill"].is_null());
    let program = counter();
    let names = ["one", "two"];
    let mut holds = names.map(|name| Hold::start(&node, name, &[&program]));
    let seen = eventually("both are rehearsed", SOON, || {
        let drill = node.json(&["status"])["drill"].clone();
        (drill["rehearsed"] == 2).then_some(drill)
    });
    assert_eq!(seen["not_saved"], serde_json::json!([]), "{}", node.log());
    let least = seen["least_margin_ms"].as_i64().unwrap();
    assert!((1..20_000).contains(&least), "{seen}");
    for name in names {
        let drill = &node.json(&["status", name])["last_drill"];
        let margin = drill["margin_ms"].as_i64().unwrap();
        assert!((1..20_000).contains(&margin), "{drill} {seen}");
        let text = figures(port);
        for figure in ["margin_seconds", "failed", "timestamp_seconds"] {
            let line = format!("lifeboat_workload_drill_{figure}{{workload=\"{name}\"}}");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }
    for hold in &mut holds {
        hold.wait_for_more(3, SOON);
        check_count(&hold.lines());
    }
}

/// The real thing does not wait for a rehearsal.
#[test]
fn a_notice_calls_a_drill_off() {
    let store = TestStore::folder();
    let options = NodeOptions {
        // The first packs are those of the drill: they take longer than the notice leaves.
        faults: "put.delay:60s@1-2",
        config: "[precopy]\nenabled = false",
        ..NodeOptions::default()
    };
    let node = Node::start_with("a", &store, options);
    let mut hold = Hold::start(&node, "w", &[&*counter()]);
    hold.wait_for_lines(3, SOON);
    std::thread::scope(|scope| {
        let drill = scope.spawn(|| node.json(&["drill", "w"]));
        node.wait_for_state("w", "saving", SOON);
        let given = node.json(&["notice", "preemption", "--within", "20s"]);
        assert_eq!(given["within_ms"], 20_000, "{given}");
        let drill = drill.join().unwrap();
        assert_eq!(drill["outcome"], "failed-running", "{drill}");
    });
    let (status, lines) = hold.wait_for_end(SOON);
    assert_eq!(status, 75, "{}\n{}", hold.said(), node.log());
    check_count(&lines);
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn figures(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
