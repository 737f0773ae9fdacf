//! A server that has forked its workers needs as much memory after a restore as before, or nearly so.

use std::time::Duration;

use super::support::{Hold, Node, NodeOptions, TestStore, c_program, check_count, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Longest time until memory is merged.
const MERGED: Duration = Duration::from_secs(100);

/// Memory of the tree of `pid`, in KiB: each page counts once (`Pss`).
fn memory_of(pid: u64) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children
        .split_whitespace()
        .map(|child| child.parse().unwrap());
    let own = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("Pss:"));
    let own = own.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
    own.unwrap_or(0) + children.map(memory_of).sum::<u64>()
}

fn memory(node: &Node) -> u64 {
    let listed = node.listed("w").unwrap();
    memory_of(listed["pid"].as_u64().unwrap())
}

#[test]
fn workers_share_the_memory_of_their_server_again() {
    let store = TestStore::folder();
    let program = c_program("prefork", &[]);
    let argv = [&*program, "48", "4"];
    let a = Node::start("a", &store);
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    let before = memory(&a);
    a.evacuate("w");
    let (_, mut lines) = first.wait_for_end(SOON);
    let options = NodeOptions {
        config: "restore.reshare = true",
        ..NodeOptions::default()
    };
    let b = Node::start_with("b", &store, options);
    let second = Hold::start(&b, "w", &argv);
    b.wait_for_state("w", "running", SOON);
    let loaded = memory(&b);
    let mut after = loaded;
    eventually("memory is merged", MERGED, || {
        after = memory(&b);
        (after * 10 <= before * 12).then_some(())
    });
    println!("{before} KiB before, {loaded} KiB when loaded, {after} KiB when merged");
    lines.extend(second.wait_for_more(3, SOON));
    check_count(&lines);
}
