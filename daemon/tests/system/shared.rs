//! Shared memory of all kinds moves as memory of a process's own does: CRIU does not read it, the
//! checkpoint has all of it, and the program finds it as it was.
//!
//! `LIFEBOAT_TEST_IMAGES` sets how many images are compared.

use std::time::Duration;

use super::support::{Hold, Node, NodeOptions, TestStore, c_program, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Images when nothing else is asked for.
const IMAGES: u32 = 4;

/// Checks what it commits, and copies nothing ahead of time.
const COLD: NodeOptions<'static> = NodeOptions {
    config: "[precopy]\nenabled = false\n[save]\naudit = true",
    dies_at: "",
    faults: "",
    network: None,
};

/// Checks what it commits, and copies all that it can ahead of time.
const EAGER: NodeOptions<'static> = NodeOptions {
    config: "[precopy]\nshortest = '100ms'\nlongest = '300ms'\ncpu_share = 1.0\n\
             workload_share = 1.0\n[save]\naudit = true",
    dies_at: "",
    faults: "",
    network: None,
};

const MIB: u64 = 1 << 20;

fn images() -> u32 {
    match std::env::var("LIFEBOAT_TEST_IMAGES") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_IMAGES is a number"),
        Err(_) => IMAGES,
    }
}

#[test]
fn shared_memory_is_captured_to_the_byte_and_comes_back() {
    move_around(COLD);
}

#[test]
fn shared_memory_that_was_copied_ahead_of_time_is_as_right() {
    move_around(EAGER);
}

#[test]
fn shared_memory_that_was_copied_ahead_of_time_is_not_sent_again() {
    let store = TestStore::folder();
    let nodes = ["a", "b"].map(|name| Node::start_with(name, &store, EAGER));
    let program = "import hashlib, mmap, os, time\n\
                   data = mmap.mmap(-1, 64 << 20)\n\
                   data[:] = os.urandom(64 << 20)\n\
                   n = 0\n\
                   while True:\n\
                   \x20   data[(n * 4096) % (1 << 20)] = n % 256\n\
                   \x20   print(hashlib.md5(memoryview(data)[1 << 20:]).hexdigest(), flush=True)\n\
                   \x20   n += 1\n\
                   \x20   time.sleep(0.2)\n";
    let mut sum: Option<String> = None;
    for node in &nodes {
        let mut hold = Hold::start(node, "keeper", &["python3", "-c", program]);
        hold.wait_for_more(2, SOON);
        node.wait_for_state("keeper", "running", SOON);
        eventually("memory is copied ahead of time", SOON, || {
            let one = node.listed("keeper")?;
            let unsaved = one["unsaved_bytes"].as_u64()?;
            (one["time_to_safe_ms"].is_number() && unsaved < 16 * MIB).then_some(())
        });
        let result = node.evacuate("keeper");
        let bytes = |field: &str| result[field].as_u64().unwrap_or_default();
        assert!(bytes("memory_bytes") > 64 * MIB, "{result}");
        assert!(bytes("uploaded_bytes") < 20 * MIB, "{result}");
        let (status, lines) = hold.wait_for_end(SOON);
        assert_eq!(status, 75, "{}", hold.said());
        for line in lines {
            assert_eq!(*sum.get_or_insert_with(|| line.clone()), line);
        }
    }
}

/// Moves a program that checks itself between two nodes.
fn move_around(options: NodeOptions<'static>) {
    let program = c_program("shared", &[]);
    let store = TestStore::folder();
    let nodes = ["a", "b"].map(|name| Node::start_with(name, &store, options));
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
