//! Figures of a load: its rate, and how long faults wait.

use std::{sync::Arc, time::Duration};

use lifeboat_pages::{Report, Urgency};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex};
use lifeboat_sys::uffd::{Install, Uffd};

use crate::{
    begin, judge,
    source::MemorySource,
    target::{BASE, LARGE, PATIENCE, Program},
};

/// Pages of the program whose rate is measured.
const PAGES: u64 = 48 << 10;

/// Bytes of one piece in the plain loop, as large as a frame.
const PIECE: usize = 64 * PAGE_BYTES;

/// Least share of the rate of plain copies, in percent. The goal is 75 in release builds; debug
/// builds and busy machines get less.
const LEAST_PERCENT: u32 = if cfg!(debug_assertions) { 40 } else { 75 };

/// Runs of each; the best ones are compared.
const RUNS: usize = 3;

const PROGRAM: Program = Program {
    seed: LARGE + 1,
    pages: PAGES,
    threads: 1,
    steps: 0,
};

/// Time in which the page server loads the program.
async fn loaded() -> Duration {
    let (space, frames) = PROGRAM.memory();
    let source = Arc::new(MemorySource::new(frames, MemorySource::calm()));
    let (server, target) = begin(PROGRAM, source, space);
    let began = std::time::Instant::now();
    server.all_added();
    tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap();
    let elapsed = began.elapsed();
    target.kill().await;
    server.finish();
    elapsed
}

/// Time in which as many threads copy the same bytes, and do nothing else.
fn copied(threads: usize) -> Duration {
    let (_, frames) = PROGRAM.memory();
    let mut target = PROGRAM.start();
    let uffd = Uffd::from(target.descriptor());
    // The program looks at its first pages before it tells the end of the restore. The kernel
    // refuses them until they are registered.
    let first = PageIndex(BASE).addr();
    while uffd
        .copy(first, &frames[0], Install::default())
        .unwrap()
        .obstacle
        .is_some()
    {
        std::thread::yield_now();
    }
    target.restored();
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (uffd, frames) = (&uffd, &frames);
            scope.spawn(move || {
                for (at, frame) in frames.iter().enumerate().skip(1) {
                    if at % threads == thread {
                        let page = PageIndex(BASE + (at * PIECE / PAGE_BYTES) as u64);
                        let progress = uffd.copy(page.addr(), frame, Install::default()).unwrap();
                        assert_eq!(progress.obstacle, None);
                    }
                }
            });
        }
    });
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_keeps_up_with_plain_copies() {
    let threads = std::thread::available_parallelism().unwrap().get().min(4);
    let (mut ours, mut plain) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        ours = ours.min(loaded().await);
        plain = plain.min(
            tokio::task::spawn_blocking(move || copied(threads))
                .await
                .unwrap(),
        );
    }
    let rate = |time: Duration| (PAGES * PAGE_BYTES as u64) as f64 / time.as_secs_f64() / 1e6;
    let percent = plain.as_secs_f64() / ours.as_secs_f64() * 100.0;
    println!(
        "loading {:.0} MB/s, plain copies {:.0} MB/s: {percent:.0} %",
        rate(ours),
        rate(plain)
    );
    assert!(percent >= f64::from(LEAST_PERCENT), "{percent:.0} %");
}

/// Loads a program that looks at all its memory at once, from a source as slow as an object store.
async fn look_while_loading(delay: Duration, prefetch: bool) -> Report {
    let program = Program {
        seed: LARGE + 2,
        pages: 8 << 10,
        threads: 4,
        steps: 400,
    };
    let (space, frames) = program.memory();
    let weather = move |_, urgency| match urgency {
        Urgency::Prefetch if !prefetch => (delay * 40, false),
        _ => (delay, false),
    };
    let source = Arc::new(MemorySource::new(frames, Box::new(weather)));
    let (server, mut target) = begin(program, source, space);
    server.all_added();
    target.go();
    let report = judge(&server, target).await.unwrap();
    server.finish();
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_wait_little_longer_than_the_store() {
    let delay = Duration::from_millis(20);
    let report = look_while_loading(delay, true).await;
    println!("20 ms away: {report:?}");
    assert!(report.progress.demand_faults > 0);
    assert!(report.demand_p50 < delay * 3 / 2, "{report:?}");
    assert!(report.demand_p99 < delay * 5 / 2, "{report:?}");
}
