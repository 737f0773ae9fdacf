//! Shared memory of all kinds moves as memory of a process's own does: CRIU does not read it, the
//! checkpoint has all of it, and the program finds it as it was.
//!
//! `LIFEBOAT_TEST_IMAGES` sets how many images are compared.

use std::time::Duration;

use super::support::{Hold, Node, NodeOptions, TestStore, c_program};

const SOON: Duration = Duration::from_secs(30);

/// Images when nothing else is asked for.
const IMAGES: u32 = 4;

/// Checks what it commits, and copies nothing ahead of time.
const COLD: NodeOptions<'static> = NodeOptions {
    config: "[precopy]\nenabled = false\n[save]\naudit = true",
    dies_at: "",
    faults: "",
};

fn images() -> u32 {
    match std::env::var("LIFEBOAT_TEST_IMAGES") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_IMAGES is a number"),
        Err(_) => IMAGES,
    }
}

#[test]
fn shared_memory_is_captured_to_the_byte_and_comes_back() {
    let program = c_program("shared", &[]);
    let store = TestStore::folder();
    let nodes = ["a", "b"].map(|name| Node::start_with(name, &store, COLD));
    for image in 0..images() {
        let node = &nodes[(image % 2) as usize];
        let mut hold = Hold::start(node, "shared", &[&program, "3", "4"]);
        hold.wait_for_more(2, SOON);
        node.wait_for_state("shared", "running", SOON);
        let result = node.evacuate("shared");
        // Eight objects, two thirds of them filled.
        let read = result["read_bytes"].as_u64().unwrap_or_default();
        assert!(read > 16 << 20, "{result}");
        let (status, lines) = hold.wait_for_end(SOON);
        assert_eq!(status, 75, "{lines:?} {}", hold.said());
        assert!(
            lines.iter().all(|line| line.starts_with("ok ")),
            "{lines:?}"
        );
    }
}
