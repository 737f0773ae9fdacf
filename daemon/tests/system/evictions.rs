//! Evictions that are made up by chance: some workloads, a link, a time, and a store that fails.
//!
//! The machine that goes and the one that stays have networks of their own, with shaped links to the real
//! S3 server, behind doors that refuse, reset, lose answers and are slow. What must hold whatever happens:
//! each workload ends committed, or runs on (or is at its last checkpoint) and everybody was told; none is
//! lost, none runs twice, none is said to be committed in time that was not; and what goes on elsewhere
//! goes on exactly where it was.
//!
//! A short form runs by default. `LIFEBOAT_TEST_EVICTIONS=40` makes up as many,
//! `LIFEBOAT_TEST_SEED=N` with seeds from N on.

mod machine;
mod scene;

use std::time::{Duration, Instant};

use self::{
    machine::{Machine, Told},
    scene::Scene,
};
use super::support::{Hold, HoldOptions, Link, Odds, Server, Unreliable, seeds};

/// What happens to requests.
const ODDS: Odds = Odds {
    busy: 0.10,
    throttled: 0.05,
    reset: 0.15,
    slow: 0.30,
    lost: 0.0,
};

/// After the end of its time the machine is still there for this long: what was not saved must have been
/// announced by then.
const GRACE: Duration = Duration::from_secs(2);

/// Longest time until somebody runs elsewhere, with a store like this.
const COMES_WITHIN: Duration = Duration::from_secs(120);

/// Lines until a program has looked at all of its memory.
const WHOLE: usize = 20;

/// How one eviction ended.
#[derive(Debug, Default)]
struct Outcome {
    in_time: usize,
    late: usize,
    at_checkpoint: usize,
    never_saved: usize,
}

fn wanted() -> Vec<u64> {
    let Ok(text) = std::env::var("LIFEBOAT_TEST_EVICTIONS") else {
        // Each takes as long as a real one.
        return seeds().into_iter().skip(1).collect();
    };
    let first = std::env::var("LIFEBOAT_TEST_SEED").map_or(1000, |seed| seed.parse().unwrap());
    (first..).take(text.parse().unwrap()).collect()
}

#[test]
fn none_is_lost_and_none_runs_twice() {
    let mut all = Outcome::default();
    for seed in wanted() {
        let scene = Scene::new(seed);
        eprintln!("eviction: seed {seed}: {}", scene.told());
        let began = Instant::now();
        let outcome = evict(seed, &scene);
        eprintln!(
            "eviction: seed {seed}: {outcome:?} after {:?}",
            began.elapsed()
        );
        all.in_time += outcome.in_time;
        all.late += outcome.late;
        all.at_checkpoint += outcome.at_checkpoint;
        all.never_saved += outcome.never_saved;
    }
    eprintln!("evictions: {all:?}");
    // A test in which nobody ever left says nothing.
    assert!(all.in_time > 0, "{all:?}");
}

fn evict(seed: u64, scene: &Scene) -> Outcome {
    let server = Server::from_environment();
    let links = [(); 2].map(|()| Link::new(scene.megabits));
    let doors = [0, 1].map(|node| {
        let address = (links[node].here(), 0).into();
        Unreliable::start(address, server.address(), ODDS, seed * 2 + node as u64)
    });
    let [a, b] = [0, 1].map(|node| doors[node].address().to_string());
    let store = server.behind(&a);
    let direct = store.by(&a, server.address());
    let mut old = Machine::start("a", &store, links[0].namespace());
    let new = Machine::start("b", &store.by(&a, &b), links[1].namespace());
    old.run(scene);
    let (given, deadline) = old.notice(scene.within);
    let waiting = scene.waits.then(|| begin(&new, scene, |_| true, &[]));
    old.wait_for_the_end(deadline + GRACE);
    let told = old.told(scene, given, deadline, &doors[0]);
    if let Some(waiting) = &waiting {
        for (hold, told) in waiting.iter().flatten().zip(&told) {
            let has_come = !hold.lines().is_empty();
            assert!(
                !has_come || told.has_left(),
                "it runs twice: {}",
                hold.said()
            );
        }
    }
    let lines = old.goes();
    // Whoever waits for a workload that has not left must not, now that its machine is gone.
    let left = |which: usize| told[which].has_left();
    let holds = match waiting {
        Some(waiting) => {
            let kept = waiting.into_iter().enumerate();
            let kept = kept.map(|(which, hold)| hold.filter(|_| left(which)));
            let kept: Vec<_> = kept.collect();
            new.forgets(|which| !left(which), scene);
            let others = begin(&new, scene, |which| !left(which), &["--take-over"]);
            kept.into_iter()
                .zip(others)
                .map(|(one, other)| one.or(other))
                .collect()
        }
        None => {
            let these = begin(&new, scene, left, &[]);
            let others = begin(&new, scene, |which| !left(which), &["--take-over"]);
            let both = these.into_iter().zip(others);
            both.map(|(one, other)| one.or(other)).collect::<Vec<_>>()
        }
    };
    let outcome = judge(holds, &lines, &told, scene);
    eprintln!(
        "eviction: seed {seed}: a: {}; b: {}",
        doors[0].told(),
        doors[1].told()
    );
    drop((old, new));
    direct.clear();
    outcome
}

/// Looks at what has come of each workload.
fn judge(holds: Vec<Option<Hold>>, lines: &[Vec<String>], told: &[Told], scene: &Scene) -> Outcome {
    let mut outcome = Outcome::default();
    for (which, hold) in holds.into_iter().enumerate() {
        let hold = hold.expect("each was begun");
        let came = hold.wait_for_lines(WHOLE, COMES_WITHIN);
        check(
            &lines[which],
            &came,
            &told[which],
            scene.workloads[which].has_checkpoint,
        );
        match &told[which] {
            Told::Left { in_time: true } => outcome.in_time += 1,
            Told::Left { in_time: false } => outcome.late += 1,
            Told::Stays if scene.workloads[which].has_checkpoint => outcome.at_checkpoint += 1,
            Told::Stays => outcome.never_saved += 1,
        }
    }
    outcome
}

/// Starts those of the workloads on the new machine.
fn begin(
    new: &Machine,
    scene: &Scene,
    which: impl Fn(usize) -> bool,
    arguments: &[&str],
) -> Vec<Option<Hold>> {
    let one = |number: usize| {
        let options = HoldOptions {
            arguments,
            ..HoldOptions::default()
        };
        let argv = scene.argv(number);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Hold::start_with(new.node(), &scene::name(number), &options, &argv)
    };
    (0..scene.workloads.len())
        .map(|number| which(number).then(|| one(number)))
        .collect()
}

/// Checks that a program has gone on where it was, or at its checkpoint, or was begun anew.
fn check(before: &[String], after: &[String], told: &Told, has_checkpoint: bool) {
    let number = |line: &String| -> u64 {
        let number = line
            .strip_prefix("count ")
            .and_then(|text| text.parse().ok());
        number.unwrap_or_else(|| panic!("{line:?} among {after:?}"))
    };
    let numbers: Vec<u64> = after.iter().map(number).collect();
    let first = numbers[0];
    for (at, number) in (first..).zip(&numbers) {
        assert_eq!(at, *number, "{after:?}");
    }
    let next = before.last().map_or(0, number) + 1;
    match told {
        Told::Left { .. } => assert_eq!(first, next, "it goes on where it was"),
        Told::Stays if has_checkpoint => {
            assert!((1..=next).contains(&first), "{first} after {next}");
        }
        Told::Stays => assert_eq!(first, 0, "there is nothing of it"),
    }
}
