//! One program that checks itself goes back and forth between two nodes, many times.
//!
//! `LIFEBOAT_TEST_CYCLES` sets how many times.

use std::time::{Duration, Instant};

use super::support::{Hold, HoldOptions, Node, TestStore, c_program, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Cycles when nothing else is asked for.
const CYCLES: u32 = 12;

/// By how much a clock of the program may jump. One of the cycles is longer than that.
const JUMP_LIMIT: Duration = Duration::from_secs(4);

/// Rounds that the program must do on each node.
const ROUNDS: usize = 3;

fn cycles() -> u32 {
    match std::env::var("LIFEBOAT_TEST_CYCLES") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_CYCLES is a number"),
        Err(_) => CYCLES,
    }
}

#[test]
fn a_program_that_checks_itself_finds_no_difference_after_many_moves() {
    let program = c_program("selfcheck", &["-pthread", "-lm"]);
    let store = TestStore::folder();
    let nodes = [Node::start("a", &store), Node::start("b", &store)];
    let folder = tempfile::tempdir().unwrap();
    let preserved = folder.path().display().to_string();
    let limit = JUMP_LIMIT.as_millis().to_string();
    let argv = [&*program, &preserved, &limit];
    let options = HoldOptions {
        arguments: &["--preserve", &preserved],
        ..HoldOptions::default()
    };
    let cycles = cycles();
    let mut rounds = 0;
    for cycle in 0..=cycles {
        let node = &nodes[(cycle % 2) as usize];
        let mut hold = Hold::start_with(node, "selfcheck", &options, &argv);
        hold.wait_for_lines(ROUNDS, SOON);
        node.wait_for_state("selfcheck", "running", SOON);
        if cycle < cycles {
            node.evacuate("selfcheck");
            let (status, _) = hold.wait_for_end(SOON);
            assert_eq!(status, 75, "{}", hold.said());
        }
        for line in hold.lines() {
            assert_eq!(
                line,
                format!("round {rounds} ok"),
                "in cycle {cycle}\n{}",
                hold.said()
            );
            rounds += 1;
        }
        if cycle == cycles / 2 {
            let away = Instant::now();
            eventually("time passes", JUMP_LIMIT * 2, || {
                (away.elapsed() > JUMP_LIMIT + Duration::from_secs(1)).then_some(())
            });
        }
    }
}
