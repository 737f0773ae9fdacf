//! Seeded random programs that change their memory while it is loaded.

use std::{sync::Arc, time::Duration};

use lifeboat_pages::{Options, PageServer};

use crate::{
    source::MemorySource,
    target::{PATIENCE, PID, Program},
};

/// Programs of a run; more with the environment's `LIFEBOAT_TEST_SEEDS`.
const SEEDS: u64 = 300;

/// Loads one program, and lets it judge.
async fn load(program: Program, delay_us: u64) -> Result<(), String> {
    let (space, frames) = program.memory();
    let weather = MemorySource::delayed(Duration::from_micros(delay_us));
    let source = Arc::new(MemorySource::new(frames, weather));
    let options = Options::new(tokio::runtime::Handle::current());
    let server = PageServer::start(source, vec![space], options).unwrap();
    let mut target = program.start();
    server.add(PID, target.descriptor()).unwrap();
    // The target faults meanwhile, and is answered by other threads.
    target.restored();
    server.all_added();
    let failed = async {
        match server.loaded().await {
            Ok(_) => std::future::pending().await,
            Err(error) => format!("{error:?}"),
        }
    };
    tokio::select! {
        verdict = target.verdict() => verdict?,
        error = failed => return Err(error),
        () = tokio::time::sleep(PATIENCE) => {
            return Err(format!("the target hangs: {:?}", server.progress()));
        }
    }
    let report = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .map_err(|_| format!("the load hangs: {:?}", server.progress()))?;
    report.map_err(|error| format!("{error:?}"))?;
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
            threads: threads as u32,
            steps: 40 + (seed % 5) as u32 * 30,
        };
        let delay = [0, 0, 300, 2000][(seed / 3 % 4) as usize];
        if let Err(problem) = load(program, delay).await {
            panic!("LIFEBOAT_TEST_FIRST_SEED={seed} LIFEBOAT_TEST_SEEDS=1: {problem}");
        }
    }
}
