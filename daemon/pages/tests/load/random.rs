//! Seeded random programs that change their memory while it is loaded.

use std::{sync::Arc, time::Duration};

use crate::{
    source::MemorySource,
    support::{begin, judge},
    target::Program,
};

/// Programs of a run; more with the environment's `LIFEBOAT_TEST_SEEDS`.
const SEEDS: u64 = 300;

/// Loads one program, and lets it judge.
async fn load(program: Program, delay_us: u64) -> Result<(), String> {
    let (space, frames) = program.memory();
    let weather = MemorySource::delayed(Duration::from_micros(delay_us));
    let source = Arc::new(MemorySource::new(frames, weather));
    let (server, mut target) = begin(program, source, space);
    server.all_added();
    target.go();
    judge(&server, target).await?;
    server.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_programs_find_every_byte_as_it_was() {
    let seeds = std::env::var("LIFEBOAT_TEST_SEEDS")
        .ok()
        .map_or(SEEDS, |n| n.parse().unwrap());
    let first = std::env::var("LIFEBOAT_TEST_FIRST_SEED")
        .ok()
        .map_or(0, |n| n.parse().unwrap());
    for seed in first..first + seeds {
        let threads = 1 + seed % 4;
        let program = Program {
            seed,
            pages: (64 + seed % 7 * 200) * threads,
            threads: u32::try_from(threads).unwrap(),
            steps: 40 + (seed % 5) as u32 * 30,
        };
        let delay = [0, 0, 300, 2000][(seed / 3 % 4) as usize];
        if let Err(problem) = load(program, delay).await {
            panic!("LIFEBOAT_TEST_FIRST_SEED={seed} LIFEBOAT_TEST_SEEDS=1: {problem}");
        }
    }
}
