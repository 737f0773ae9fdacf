//! Notices of clouds that are played, from the metadata server to the workload that has left.

use std::{net::SocketAddr, time::Duration};

use lifeboat_metadata::{Control, Emulator, Wanted};

use super::support::{Hold, Node, NodeOptions, TestStore, check_count, counter, eventually};

const SOON: Duration = Duration::from_secs(30);

const TWO_MINUTES: Duration = Duration::from_secs(120);

/// A cloud's metadata server, in this process.
struct Cloud {
    control: Control,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Cloud {
    fn start(wanted: Wanted) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let emulator = runtime.block_on(Emulator::bind(address, wanted)).unwrap();
        let address = emulator.address().unwrap();
        let control = emulator.control();
        runtime.spawn(emulator.serve());
        Self {
            control,
            address,
            _runtime: runtime,
        }
    }

    /// A node in this cloud, which finds out by itself which one it is.
    fn node(&self, store: &TestStore, more: &str) -> Node {
        let config = format!("metadata_endpoint = 'http://{}'\n{more}", self.address);
        let options = NodeOptions {
            config: &config,
            ..NodeOptions::default()
        };
        Node::start_with("a", store, options)
    }
}

/// Waits until the daemon has an answer of `source`.
fn wait_until_watched(node: &Node, source: &str) {
    eventually("the source is watched", SOON, || {
        let status = node.json(&["status"]);
        let sources = status["notice_sources"].as_array()?.clone();
        let one = sources.into_iter().find(|one| one["name"] == source)?;
        (one["works"] == true).then_some(())
    });
}

#[test]
fn what_each_cloud_says_takes_the_workload_off_the_machine() {
    for (wanted, name) in [
        (Wanted::Gce, "gce"),
        (Wanted::Aws, "aws"),
        (Wanted::Azure, "azure"),
    ] {
        let store = TestStore::folder();
        let cloud = Cloud::start(wanted);
        let node = cloud.node(&store, "");
        let mut hold = Hold::start(&node, "w", &[&*counter()]);
        hold.wait_for_lines(2, SOON);
        wait_until_watched(&node, name);
        match wanted {
            Wanted::Gce => drop(cloud.control.set_gce("preempted", "TRUE")),
            Wanted::Aws => cloud
                .control
                .set_instance_action(Some(("terminate", TWO_MINUTES))),
            _ => drop(cloud.control.schedule("Preempt", TWO_MINUTES)),
        }
        let (status, mut lines) = hold.wait_for_end(SOON);
        assert_eq!(status, 75, "{name}: {}\n{}", hold.said(), node.log());
        let notice = &node.json(&["status"])["notice"];
        assert_eq!(
            (&notice["source"], &notice["kind"]),
            (&name.into(), &"preemption".into())
        );
        // And it goes on elsewhere.
        let other = Node::start("b", &store);
        let second = Hold::start(&other, "w", &[&*counter()]);
        lines.extend(second.wait_for_lines(2, SOON));
        check_count(&lines);
    }
}

#[test]
fn azure_s_event_is_approved_after_the_commit_and_not_before() {
    let store = TestStore::folder();
    let cloud = Cloud::start(Wanted::Azure);
    let node = cloud.node(&store, "[watch.azure]\napprove = true\n");
    let mut hold = Hold::start(&node, "w", &[&*counter()]);
    hold.wait_for_lines(2, SOON);
    wait_until_watched(&node, "azure");
    let id = cloud.control.schedule("Preempt", TWO_MINUTES);
    let approved = eventually("the event is approved", SOON, || {
        let approved = cloud.control.approved();
        // At the very first sight of the approval, the manifest is there.
        let manifests = store.files("workloads").len();
        (!approved.is_empty()).then_some((approved, manifests))
    });
    assert_eq!(approved.0, [id]);
    assert!(approved.1 > 1, "a head, but no checkpoint");
    let log = node.log();
    let committed = log.find("notice answered").unwrap();
    assert!(
        committed < log.find("approved: every workload").unwrap(),
        "{log}"
    );
    assert_eq!(hold.wait_for_end(SOON).0, 75);
}

#[test]
fn a_notice_that_is_withdrawn_stops_the_save_and_the_workload_runs_on() {
    let store = TestStore::folder();
    let cloud = Cloud::start(Wanted::Aws);
    let config = format!("metadata_endpoint = 'http://{}'", cloud.address);
    let node = Node::start_with(
        "a",
        &store,
        NodeOptions {
            config: &config,
            // Whatever is to be stored takes long: there is time to call it off.
            faults: "put.delay:60s",
            ..NodeOptions::default()
        },
    );
    let hold = Hold::start(&node, "w", &[&*counter()]);
    hold.wait_for_lines(2, SOON);
    wait_until_watched(&node, "aws");
    cloud
        .control
        .set_instance_action(Some(("terminate", TWO_MINUTES)));
    node.wait_for_state("w", "saving", SOON);
    cloud.control.set_instance_action(None);
    node.wait_for_state("w", "running", SOON);
    hold.wait_for_more(3, SOON);
    check_count(&hold.lines());
    assert!(
        node.log().contains("the save was called off"),
        "{}",
        node.log()
    );
    assert_eq!(node.json(&["status"])["notice"], serde_json::Value::Null);
}

#[test]
fn a_second_notice_file_moves_what_came_after_the_first() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    for workload in ["one", "two"] {
        let mut hold = Hold::start(&node, workload, &[&*counter()]);
        hold.wait_for_lines(2, SOON);
        std::fs::write(node.folder().join("state/notice"), "25s").unwrap();
        assert_eq!(hold.wait_for_end(SOON).0, 75, "{}", node.log());
    }
}

#[test]
fn an_early_signal_moves_nothing() {
    let store = TestStore::folder();
    let cloud = Cloud::start(Wanted::Aws);
    let node = cloud.node(&store, "");
    let hold = Hold::start(&node, "w", &[&*counter()]);
    hold.wait_for_lines(2, SOON);
    wait_until_watched(&node, "aws");
    cloud.control.set_rebalance(true);
    eventually("the signal is shown", SOON, || {
        (node.json(&["status"])["notice"]["kind"] == "early").then_some(())
    });
    hold.wait_for_more(3, SOON);
    node.wait_for_state("w", "running", SOON);
}

/// What an operator says by hand counts as what a cloud says, and can be taken back.
#[test]
fn a_notice_by_hand_is_one_like_any_other() {
    let store = TestStore::folder();
    let node = Node::start("a", &store);
    let mut hold = Hold::start(&node, "w", &[&*counter()]);
    hold.wait_for_lines(2, SOON);
    node.json(&["notice", "early", "--within", "1h"]);
    eventually("the signal is shown", SOON, || {
        let notice = node.json(&["status"])["notice"].clone();
        (notice["kind"] == "early" && notice["source"] == "call").then_some(())
    });
    node.json(&["notice", "--withdraw"]);
    eventually("it is taken back", SOON, || {
        node.json(&["status"])["notice"].is_null().then_some(())
    });
    hold.wait_for_more(3, SOON);
    // Of a pod that is not here.
    let pod = [
        "notice",
        "preemption",
        "--pod",
        "6f0d9f3e-0000-4c55-9a66-000000000000",
    ];
    node.json(&pod);
    hold.wait_for_more(3, SOON);
    let wrong = node.run(&["notice", "preemption", "--pod", "../x"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let other = node.run_as(Some("nobody"), &["notice", "preemption"]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    node.json(&["notice", "preemption", "--within", "20s"]);
    assert_eq!(hold.wait_for_end(SOON).0, 75, "{}", node.log());
}
