//! Memory that was copied ahead of time is not read at the freeze, and is as right as what is.
//!
//! Nodes read every checkpoint back before the commit and compare it with the frozen memory (`[save]
//! audit`): a page that was taken for clean and was not fails the evacuation.
//!
//! `LIFEBOAT_TEST_IMAGES` sets how many images of the churning tree are compared.

use std::time::Duration;

use serde_json::Value;

use super::support::{Hold, Node, NodeOptions, TestStore, c_program, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Images of the churning tree when nothing else is asked for.
const IMAGES: u32 = 6;

/// Looks often, spares nobody, and checks what it commits.
const EAGER: NodeOptions<'static> = NodeOptions {
    config: "[precopy]\nshortest = '100ms'\nlongest = '300ms'\ncpu_share = 1.0\n\
             workload_share = 1.0\n[save]\naudit = true",
    dies_at: "",
    faults: "",
    network: None,
};

const MIB: u64 = 1 << 20;

fn bytes(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} of {value}"))
}

/// Waits until at most `bytes` of a workload are not saved.
fn wait_until_saved(node: &Node, workload: &str, at_most: u64) {
    eventually("memory is copied ahead of time", SOON, || {
        let one = node.listed(workload)?;
        let known = one["time_to_safe_ms"].is_number();
        (known && bytes(&one, "unsaved_bytes") <= at_most).then_some(())
    });
}

/// Bytes of all packs.
fn stored_bytes(store: &TestStore) -> u64 {
    let sizes = store.files("packs").into_iter();
    // One may be deleted meanwhile.
    sizes
        .map(|path| path.metadata().map_or(0, |data| data.len()))
        .sum()
}

/// A Python program that keeps 64 MiB, says their sum, and does something again and again.
fn keeper(again: &str) -> String {
    format!(
        "import hashlib, os, sys, time\n\
         data = bytearray(os.urandom(64 << 20))\n\
         n = 0\n\
         while True:\n\
         \x20   {again}\n\
         \x20   print(n, hashlib.md5(memoryview(data)[1 << 20:]).hexdigest(), flush=True)\n\
         \x20   n += 1\n\
         \x20   time.sleep(0.2)\n"
    )
}

#[test]
fn what_was_copied_ahead_is_not_read_at_the_freeze() {
    let store = TestStore::folder();
    let nodes = ["a", "b"].map(|name| Node::start_with(name, &store, EAGER));
    let program = keeper("data[(n * 4096) % (1 << 20)] ^= 1");
    let argv = ["python3", "-c", &program];
    let mut sums: Option<String> = None;
    for node in [&nodes[0], &nodes[1], &nodes[0]] {
        let mut hold = Hold::start(node, "keeper", &argv);
        hold.wait_for_lines(3, SOON);
        node.wait_for_state("keeper", "running", SOON);
        wait_until_saved(node, "keeper", 16 * MIB);
        let shown = node.json(&["status", "keeper"]);
        assert_eq!(
            shown["processes"][0]["tracking"], "write-protect",
            "{shown}"
        );
        let result = node.evacuate("keeper");
        assert!(bytes(&result, "memory_bytes") > 64 * MIB, "{result}");
        assert!(bytes(&result, "read_bytes") < 20 * MIB, "{result}");
        assert!(bytes(&result, "uploaded_bytes") < 20 * MIB, "{result}");
        let (status, lines) = hold.wait_for_end(SOON);
        assert_eq!(status, 75, "{}", hold.said());
        for line in lines {
            let sum = line.split(' ').nth(1).unwrap().to_owned();
            assert_eq!(*sums.get_or_insert_with(|| sum.clone()), sum);
        }
    }
}

#[test]
fn what_is_written_again_with_the_same_content_is_not_sent_again() {
    let store = TestStore::folder();
    let node = Node::start_with("a", &store, EAGER);
    let again =
        "for i in range(0, len(data), 1 << 20): data[i:i + (1 << 20)] = data[i:i + (1 << 20)]";
    let program = keeper(again);
    let hold = Hold::start(&node, "keeper", &["python3", "-c", &program]);
    hold.wait_for_lines(3, SOON);
    eventually("all memory was copied once", SOON, || {
        let stored = node.listed("keeper")?["precopy"]["stored_bytes"].as_u64()?;
        (stored > 60 * MIB).then_some(())
    });
    hold.wait_for_more(2, SOON);
    node.json(&["checkpoint", "keeper"]);
    let stored = stored_bytes(&store);
    hold.wait_for_more(5, SOON);
    let result = node.json(&["checkpoint", "keeper"]);
    assert_eq!(result["outcome"], "checkpointed", "{result}");
    assert!(bytes(&result, "memory_bytes") > 64 * MIB, "{result}");
    // All of it was written at least five times.
    let sent = stored_bytes(&store).saturating_sub(stored);
    assert!(sent < 24 * MIB, "{sent} bytes were sent again");
}

#[test]
fn a_tree_that_maps_moves_drops_and_forks_is_captured_to_the_byte() {
    let program = c_program("churn", &[]);
    let store = TestStore::folder();
    let nodes = ["a", "b"].map(|name| Node::start_with(name, &store, EAGER));
    let images = match std::env::var("LIFEBOAT_TEST_IMAGES") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_IMAGES is a number"),
        Err(_) => IMAGES,
    };
    let mut read = 0;
    let mut all = 0;
    for image in 0..images {
        let node = &nodes[(image % 2) as usize];
        let mut hold = Hold::start(node, "churn", &[&program, "3", "24"]);
        hold.wait_for_lines(2, SOON);
        node.wait_for_state("churn", "running", SOON);
        if image % 4 != 3 {
            wait_until_saved(node, "churn", 48 * MIB);
        }
        let result = node.json(&["evacuate", "churn"]);
        let (lines, said) = (hold.lines(), hold.said());
        assert_eq!(
            result["outcome"], "evacuated",
            "{result}\n{lines:#?}\n{said}"
        );
        read += bytes(&result, "read_bytes");
        all += bytes(&result, "memory_bytes");
        let (status, lines) = hold.wait_for_end(SOON);
        assert_eq!(status, 75, "{lines:?} {}", hold.said());
        assert!(
            lines.iter().all(|line| line.starts_with("ok ")),
            "{lines:?}"
        );
    }
    eprintln!("{images} images: {read} of {all} bytes were read while frozen");
    assert!(read < all, "nothing was ever copied ahead of time");
}

#[test]
fn a_daemon_that_starts_anew_copies_anew() {
    let store = TestStore::folder();
    let mut node = Node::start_with("a", &store, EAGER);
    let program = keeper("data[(n * 4096) % (1 << 20)] ^= 1");
    let argv = ["python3", "-c", &program];
    let mut hold = Hold::start(&node, "keeper", &argv);
    hold.wait_for_lines(2, SOON);
    wait_until_saved(&node, "keeper", 16 * MIB);
    node.kill();
    hold.wait_for_more(2, SOON);
    node.revive(&store);
    node.wait_for_state("keeper", "running", SOON);
    wait_until_saved(&node, "keeper", 16 * MIB);
    let result = node.evacuate("keeper");
    assert!(bytes(&result, "read_bytes") < 20 * MIB, "{result}");
    let (status, _) = hold.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", hold.said());
}

#[test]
fn a_pack_that_somebody_has_deleted_is_found_out_before_anybody_is_killed() {
    let store = TestStore::folder();
    // Without the audit: nothing else would notice.
    let options = NodeOptions {
        config: "[precopy]\nshortest = '100ms'\ncpu_share = 1.0\n[save]\naudit = false",
        ..NodeOptions::default()
    };
    let nodes = ["a", "b"].map(|name| Node::start_with(name, &store, options));
    let program = keeper("data[(n * 4096) % (1 << 20)] ^= 1");
    let argv = ["python3", "-c", &program];
    let mut hold = Hold::start(&nodes[0], "keeper", &argv);
    hold.wait_for_lines(3, SOON);
    wait_until_saved(&nodes[0], "keeper", 16 * MIB);
    for pack in store.files("packs") {
        std::fs::remove_file(pack).unwrap();
    }
    nodes[0].evacuate("keeper");
    let (status, lines) = hold.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", hold.said());
    let verified = nodes[0].run(&["verify", "keeper"]);
    assert!(verified.status.success(), "{verified:?}");
    let again = Hold::start(&nodes[1], "keeper", &argv);
    let sum = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    let more = again.wait_for_lines(3, SOON);
    assert_eq!(sum(&lines[0]), sum(&more[0]));
}
