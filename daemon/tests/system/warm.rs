//! A standby node that has been told which workload may come to it.

use std::time::Duration;

use super::support::{Hold, Node, NodeOptions, TestStore, check_count, counter};

const SOON: Duration = Duration::from_secs(30);

/// A node that keeps up to 64 MiB near, and whose store is `faults`.
fn standby(store: &TestStore, faults: &str) -> Node {
    let options = NodeOptions {
        config: "lease = '3s'\nwarm.bytes = 67108864",
        faults,
        ..NodeOptions::default()
    };
    Node::start_with("b", store, options)
}

#[test]
fn what_was_prefetched_is_not_fetched_again_and_a_newer_checkpoint_costs_only_its_delta() {
    let store = TestStore::folder();
    let a = Node::start("a", &store);
    let b = standby(&store, "");
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.json(&["checkpoint", "w"]);
    let one = b.json(&["prefetch", "w"]);
    assert_eq!(one["complete"], true, "{one}");
    assert!(one["fetched_bytes"].as_u64() > Some(0), "{one}");
    let again = b.json(&["prefetch", "w"]);
    assert_eq!(again["fetched_bytes"], 0, "{again}");
    a.evacuate("w");
    let (_, mut lines) = first.wait_for_end(SOON);
    let two = b.json(&["prefetch", "w"]);
    assert_eq!(two["complete"], true, "{two}");
    let warm = &b.json(&["status"])["warm"][0];
    assert_eq!(warm["workload"], "w");
    assert_eq!(warm["warm_bytes"], warm["total_bytes"]);
    // The store has lost all packs: everything comes from here.
    let packs = store.path().join("packs");
    std::fs::rename(&packs, packs.with_extension("away")).unwrap();
    let second = Hold::start(&b, "w", &argv);
    lines.extend(second.wait_for_lines(3, SOON));
    b.wait_for_state("w", "running", SOON);
    check_count(&lines);
    std::fs::rename(packs.with_extension("away"), &packs).unwrap();
}

#[test]
fn what_is_damaged_near_is_fetched_from_the_store() {
    let store = TestStore::folder();
    let a = Node::start("a", &store);
    let b = standby(&store, "");
    let argv = [&*counter()];
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.evacuate("w");
    let (_, mut lines) = first.wait_for_end(SOON);
    b.json(&["prefetch", "w"]);
    for pack in std::fs::read_dir(b.folder().join("state/warm")).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x40);
        std::fs::write(&path, bytes).unwrap();
    }
    let second = Hold::start(&b, "w", &argv);
    lines.extend(second.wait_for_lines(3, SOON));
    b.wait_for_state("w", "running", SOON);
    check_count(&lines);
    assert!(
        b.log()
            .contains("a prefetched pack is not what was written")
    );
}

#[test]
fn a_node_that_keeps_nothing_near_says_so() {
    let store = TestStore::folder();
    let a = Node::start("a", &store);
    let said = a.run(&["prefetch", "w"]);
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("[warm]"), "{said}");
}
