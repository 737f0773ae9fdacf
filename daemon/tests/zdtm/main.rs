//! CRIU's own test programs go through Lifeboat: nothing may fail here that does not fail through
//! plain CRIU on the same machine.
//!
//! Each program brings itself into a state that a checkpoint could damage (timers, signals, pipes,
//! sockets in every phase, mappings, credentials, terminals, …) and checks it afterwards. It runs as
//! a workload of one daemon, is evacuated, and goes on in a hold of another daemon; then it is asked
//! for its verdict. Its files travel with it and are removed behind it. What fails is run through
//! plain CRIU, by `deploy/criu/zdtm.sh baseline`: only what passes there counts.
//!
//! Usually a fixed selection of every kind runs, and a few more by chance; the seed is printed.
//! - `LIFEBOAT_TEST_ZDTM`: where the programs are; `deploy/criu/zdtm.sh get` puts them there
//! - `LIFEBOAT_TEST_ZDTM_ALL=1`: run all of them
//! - `LIFEBOAT_TEST_SEED`: repeat a choice
//! - `LIFEBOAT_TEST_ZDTM_ONLY`: run only these, for example `static/pipe00 transition/fork`;
//!   also those that say nothing about Lifeboat and are left out otherwise
//!
//! Needs root, the CRIU bundle, and make.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails fails the test"
)]

mod journey;
mod plain;
mod program;
mod selection;
#[path = "../system/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the system tests need more of it")]
mod support;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use journey::{Journey, Verdict};
use program::{Collection, Program};
use support::{Node, TestStore};

/// Programs that move at the same time.
const LANES: usize = 2;

/// Fewest programs that must pass for the run to mean anything.
const PASSED_MIN: usize = 40;

#[test]
fn what_survives_plain_criu_survives_lifeboat() {
    let collection = Collection::from_environment();
    let chosen = selection::choose(&collection);
    let few = chosen.len() < PASSED_MIN;
    let started = Instant::now();
    let results = move_all(chosen);

    // What fails by chance on a busy machine is told and tried once more; what fails twice counts.
    let (first, again) = sorted(results);
    for (program, verdict) in &again {
        eprintln!("{}: {verdict}; once more", program.name());
    }
    let again = again
        .into_iter()
        .map(|(program, _)| program)
        .collect::<Vec<_>>();
    let (second, others) = if again.is_empty() {
        (0, Vec::new())
    } else {
        sorted(move_all(again))
    };
    let passed = first + second;
    eprintln!(
        "{passed} of CRIU's test programs passed in {:?}",
        started.elapsed()
    );
    let names: Vec<&str> = others.iter().map(|(program, _)| program.name()).collect();
    let plain = plain::verdicts(&collection, &names);
    let mut worse = Vec::new();
    for (program, verdict) in &others {
        let plain = plain.get(program.name()).map_or("nothing", String::as_str);
        eprintln!("{}: {verdict}; plain CRIU: {plain}", program.name());
        if plain.starts_with("PASS") {
            worse.push(program.name());
        }
    }
    assert!(worse.is_empty(), "only plain CRIU moves these: {worse:#?}");
    assert!(few || passed >= PASSED_MIN, "only {passed} passed");
}

/// How many passed, and the others.
fn sorted(results: Vec<(Program, Verdict)>) -> (usize, Vec<(Program, Verdict)>) {
    let (passed, others): (Vec<_>, Vec<_>) = results
        .into_iter()
        .partition(|(_, verdict)| matches!(verdict, Verdict::Passed));
    (passed.len(), others)
}

/// Moves all programs, a few at a time.
fn move_all(programs: Vec<Program>) -> Vec<(Program, Verdict)> {
    let store = TestStore::folder();
    let (from, to) = (Node::start("from", &store), Node::start("to", &store));
    // Ports are free again while a program is away: no two programs with sockets at a time.
    let (sockets, rest): (VecDeque<_>, VecDeque<_>) =
        programs.into_iter().partition(Program::takes_ports);
    let (sockets, rest) = (Mutex::new(sockets), Mutex::new(rest));
    let results = Mutex::new(Vec::new());
    let next = |queue: &Mutex<VecDeque<Program>>| {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    let work = |lane| {
        while let Some(program) = (lane == 0)
            .then(|| next(&sockets))
            .flatten()
            .or_else(|| next(&rest))
        {
            let verdict = Journey::new(&program, &from, &to).run();
            results.lock().unwrap().push((program, verdict));
        }
    };
    let work = &work;
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || work(lane));
        }
    });
    results.into_inner().unwrap()
}
