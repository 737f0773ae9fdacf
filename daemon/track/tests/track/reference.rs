//! The reference test: programs that do what chance says, copied while they run by nothing but the
//! tracker's reports, are equal to their copies when they stop.

use std::{
    env,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use lifeboat_track::{Mode, Options, Runs, TreeTracker};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    shadow::{Compared, Shadow},
    target::{self, PATIENCE, Target, feature},
};

/// Programs in the short form, half of them the same each time.
const SEEDS: u64 = 200;

/// How many, in the long form.
const SEEDS_VARIABLE: &str = "LIFEBOAT_TEST_SEEDS";

/// A program of its own, from start to comparison.
fn follow(seed: u64) -> Compared {
    let mut random = SmallRng::seed_from_u64(seed);
    // A third of the programs do all there is.
    let features = if random.random_ratio(1, 3) {
        feature::ALL
    } else {
        random.random_range(0..=feature::ALL)
    };
    let mut target = Target::start(seed, random.random_range(1..=3), features);
    let options = Options {
        attach_timeout: PATIENCE,
        hot_after: random.random_range(0..=3),
        ..Options::default()
    };
    let mut tracker = TreeTracker::new(target.root.try_clone().unwrap(), options);
    let mut shadow = Shadow::default();
    for _ in 0..random.random_range(1..12) {
        target.run_for(Duration::from_micros(random.random_range(0..4000)));
        let mut round = tracker.round().unwrap();
        for one in &mut round.spaces {
            assert_ne!(one.mode, Mode::Everything, "{:?}", one.why);
            // Some of it cannot be captured, for reasons of the capture's own.
            let lost = one
                .round
                .dirty
                .as_slice()
                .iter()
                .filter(|_| random.random_ratio(1, 16));
            let lost: Runs = lost.copied().collect();
            one.round.dirty = one.round.dirty.minus(&lost);
            tracker.again(one.space, &lost);
        }
        shadow.follow(&round);
    }
    target.stop();
    let lasts = tracker.last().unwrap();
    assert_eq!(lasts.len(), target.processes().len());
    shadow.finish(&lasts)
}

/// As [`follow`], naming the seed if it fails. `None`: the program has crashed by itself.
fn follow_named(seed: u64) -> Option<Compared> {
    match panic::catch_unwind(AssertUnwindSafe(|| follow(seed))) {
        Ok(compared) => Some(compared),
        Err(_) if target::has_crashed() => None,
        Err(cause) => {
            eprintln!("the seed was {seed}");
            panic::resume_unwind(cause)
        }
    }
}

#[test]
fn what_is_called_clean_is_as_it_was_captured() {
    let seeds = env::var(SEEDS_VARIABLE).map_or(SEEDS, |number| number.parse().unwrap());
    let fresh: u64 = rand::random::<u32>().into();
    let began = Instant::now();
    let mut all = Compared::default();
    let mut crashed = 0;
    for index in 0..seeds {
        let seed = if index % 2 == 0 {
            index
        } else {
            (fresh << 20) + index
        };
        let Some(one) = follow_named(seed) else {
            crashed += 1;
            continue;
        };
        all.present += one.present;
        all.clean += one.clean;
    }
    let took = began.elapsed();
    eprintln!("{seeds} programs in {took:?}, {crashed} crashed: {all:?}");
    assert!(
        crashed <= 1 + seeds / 500,
        "{crashed} of {seeds} programs crashed"
    );
    assert!(all.clean > 0, "nothing was ever clean: {all:?}");
}

#[test]
fn one_seed() {
    let Ok(seed) = env::var("SEED") else { return };
    let compared = follow_named(seed.parse().unwrap());
    eprintln!("{compared:?}");
}
