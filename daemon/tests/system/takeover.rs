//! The daemon dies while the memory of a restored workload is loaded. The next one goes on with it,
//! or the workload ends loudly with its checkpoint intact; never does it see a wrong byte.
//!
//! `LIFEBOAT_TEST_KILLS` sets how many times a daemon is killed, `LIFEBOAT_TEST_SEED` when.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::{
    Hold, Node, NodeOptions, TestStore, c_program, check_count, counter, eventually,
};

const SOON: Duration = Duration::from_secs(30);

/// Kills when nothing else is asked for.
const KILLS: u32 = 5;

/// Longest time after a restore's begin at which a daemon is killed.
const LOAD: Duration = Duration::from_millis(2600);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("it is a number"))
}

/// What became of workloads, by what they were doing when their daemon was killed.
type Fates = BTreeMap<(String, &'static str), u32>;

#[test]
fn a_program_whose_daemon_is_killed_again_and_again_finds_every_byte_as_it_was() {
    let store = TestStore::folder();
    let program = c_program("restless", &["-pthread"]);
    let seed = number("LIFEBOAT_TEST_SEED").unwrap_or_else(|| rand::rng().random());
    let kills = number("LIFEBOAT_TEST_KILLS").map_or(KILLS, |n| u32::try_from(n).unwrap());
    let mut rng = StdRng::seed_from_u64(seed);
    let argv = [&*program, "48"];
    let a = Node::start("a", &store);
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.evacuate("w");
    assert_eq!(first.wait_for_end(SOON).0, 75, "{}", first.said());
    drop(a);
    let mut fates = Fates::new();
    for kill in 0..kills {
        let options = NodeOptions {
            config: "lease = '3s'",
            faults: "range.delay:4ms;range.throttle:2M",
            ..NodeOptions::default()
        };
        let mut b = Node::start_with("b", &store, options);
        let began = Instant::now();
        let mut hold = Hold::start(&b, "w", &argv);
        let moment = rng.random_range(Duration::ZERO..LOAD);
        eventually("the moment has come", LOAD * 2, || {
            (began.elapsed() >= moment).then_some(())
        });
        let phase = b
            .listed("w")
            .map_or_else(String::new, |one| one["state"].to_string());
        b.kill();
        b.revive(&store);
        let context = format!("seed {seed}, kill {kill} after {moment:?} ({phase})");
        let fate = judge(&b, &mut hold, &context);
        *fates.entry((phase, fate)).or_default() += 1;
        if hold.ended().is_none() {
            // The next one is restored from what this one has become.
            b.evacuate("w");
            assert_eq!(hold.wait_for_end(SOON).0, 75, "{context}\n{}", hold.said());
        }
    }
    eprintln!("seed {seed}: {fates:?}");
}

/// The workload's fate, unless it is not as it should be.
fn judge(node: &Node, hold: &mut Hold, context: &str) -> &'static str {
    let ended = eventually("it goes on or ends", SOON * 2, || match hold.ended() {
        None if node.listed("w").is_none_or(|one| one["state"] != "running") => None,
        ended => Some(ended),
    });
    let fate = if let Some(status) = ended {
        let said = format!("{context}\n{}\n{}", hold.said(), node.log());
        assert_eq!(status, 171, "{said}");
        assert!(hold.said().contains("intact"), "{said}");
        "ended"
    } else {
        hold.wait_for_more(3, SOON);
        if node.log().contains("the load was taken over") {
            "taken over"
        } else {
            "went on"
        }
    };
    for line in hold.lines() {
        assert!(
            line.starts_with("step ") && line.ends_with(" ok"),
            "{context}: {line}\n{}\n{}",
            hold.said(),
            node.log()
        );
    }
    fate
}

/// A workload that misses memory, whose daemon has just died; and what it has said before.
fn half_loaded(store: &TestStore, config: &str) -> (Node, Hold, Vec<String>) {
    let argv = [&*counter()];
    let a = Node::start("a", store);
    let mut first = Hold::start(&a, "w", &argv);
    first.wait_for_lines(3, SOON);
    a.evacuate("w");
    let (_, before) = first.wait_for_end(SOON);
    let options = NodeOptions {
        config,
        faults: "range.delay:100ms;range.throttle:1M",
        ..NodeOptions::default()
    };
    let mut b = Node::start_with("b", store, options);
    let second = Hold::start(&b, "w", &argv);
    b.wait_for_state("w", "loading", SOON);
    b.kill();
    (b, second, before)
}

#[test]
fn a_successor_goes_on_with_a_load_and_the_workload_can_be_moved_on() {
    let store = TestStore::folder();
    let (mut b, mut second, before) = half_loaded(&store, "lease = '3s'");
    eventually("the hold waits", SOON, || {
        second.said().contains("waits for it").then_some(())
    });
    b.revive(&store);
    b.wait_for_state("w", "running", SOON);
    assert!(b.log().contains("the load was taken over"), "{}", b.log());
    second.wait_for_more(3, SOON);
    b.evacuate("w");
    let (status, middle) = second.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", second.said());
    let third = Hold::start(&b, "w", &[&*counter()]);
    let after = third.wait_for_lines(3, SOON);
    check_count(&[before, middle, after].concat());
}

#[test]
fn without_a_successor_the_workload_ends_and_its_checkpoint_is_intact() {
    for config in [
        "lease = '3s'\ntakeover_wait = '2s'",
        "lease = '3s'\ntakeover_wait = '0s'",
    ] {
        let store = TestStore::folder();
        let (mut b, mut second, before) = half_loaded(&store, config);
        let (status, middle) = second.wait_for_end(SOON);
        assert_eq!(status, 171, "{}", second.said());
        assert!(second.said().contains("intact"), "{}", second.said());
        check_count(&[&*before, &middle].concat());
        b.revive(&store);
        let third = Hold::start(&b, "w", &[&*counter()]);
        check_count(&[before, third.wait_for_lines(3, SOON)].concat());
    }
}

#[test]
fn a_workload_that_somebody_else_has_claimed_is_not_taken_over() {
    let store = TestStore::folder();
    let (mut b, mut second, _) = half_loaded(&store, "lease = '3s'");
    let c = Node::start("c", &store);
    let third = Hold::start(&c, "w", &[&*counter()]);
    third.wait_for_lines(3, SOON);
    b.revive(&store);
    let (status, _) = second.wait_for_end(SOON);
    assert_eq!(status, 171, "{}\n{}", second.said(), b.log());
    third.wait_for_more(3, SOON);
    c.wait_for_state("w", "running", SOON);
}
