//! What tracking costs. The figures are printed; what is asserted holds on any machine.

use std::{
    env,
    time::{Duration, Instant},
};

use lifeboat_proto::units::{PAGE_SIZE, PageRun};
use lifeboat_track::{Options, Tracker};

use crate::{events::OPTIONS, puppet::Puppet};

/// Size of the memory that is tracked, in MiB, if not this.
const SIZE_VARIABLE: &str = "LIFEBOAT_TEST_MIB";
const SIZE_MIB: u64 = 128;

/// Time that the puppet takes to write to each page of a run.
fn write_time(puppet: &mut Puppet, memory: PageRun) -> Duration {
    let order = format!("c {} {}", memory.start.addr().0, memory.pages);
    Duration::from_nanos(u64::try_from(puppet.order(&order)).unwrap())
}

fn each(time: Duration, pages: u64) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(u32::try_from(pages).unwrap())
}

fn shortest(rounds: u32, mut round: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| round()).min().unwrap()
}

/// Written memory, and what it cost to write it for the first time and again.
fn written() -> (Puppet, PageRun, [Duration; 2]) {
    let mib = env::var(SIZE_VARIABLE).map_or(SIZE_MIB, |mib| mib.parse().unwrap());
    let mut puppet = Puppet::start();
    let memory = puppet.map((mib << 20) / PAGE_SIZE);
    let times = [
        write_time(&mut puppet, memory),
        write_time(&mut puppet, memory),
    ];
    (puppet, memory, times)
}

#[test]
fn hot_pages_cost_nothing() {
    let (mut puppet, memory, [first_touch, untracked]) = written();
    let options = Options {
        hot_after: 2,
        ..OPTIONS
    };
    let began = Instant::now();
    let mut tracker = Tracker::attach(&puppet.process, options).unwrap();
    let attach = began.elapsed();
    let first = tracker.round().unwrap();
    assert!(first.dirty.within(memory).eq([memory]));
    let idle = shortest(5, || tracker.round().unwrap().took);

    let protected = write_time(&mut puppet, memory);
    let all = tracker.round().unwrap();
    assert!(all.dirty.within(memory).eq([memory]));
    write_time(&mut puppet, memory);
    tracker.round().unwrap();
    write_time(&mut puppet, memory);
    let hot_round = tracker.round().unwrap();
    // Some are being tried again.
    assert!(hot_round.hot_pages >= memory.pages / 4 * 3);
    let hot = shortest(5, || write_time(&mut puppet, memory));
    let last = tracker.last().unwrap();
    assert!(last.dirty.within(memory).eq([memory]));
    let began = Instant::now();
    drop(tracker);
    let close = began.elapsed();

    let pages = memory.pages;
    eprintln!(
        "{pages} pages: attach {attach:?}, close {close:?}; first round {:?}, idle {idle:?}, all \
         dirty {:?}, all hot {:?}, last scan {:?}; us per write: first touch {:.2}, untracked \
         {:.3}, protected {:.2}, hot {:.3}",
        first.took,
        all.took,
        hot_round.took,
        last.took,
        each(first_touch, pages),
        each(untracked, pages),
        each(protected, pages),
        each(hot, pages),
    );
    assert!(
        hot < protected / 2,
        "hot pages still fault: {hot:?}, {protected:?} when protected"
    );
}

#[test]
fn single_pages_are_reported_as_they_are() {
    let (mut puppet, memory, _) = written();
    let mut tracker = Tracker::attach(&puppet.process, OPTIONS).unwrap();
    tracker.round().unwrap();
    puppet.write_each(memory, 16);
    let mut last = tracker.last().unwrap();
    last.took = last.took.min(shortest(3, || tracker.last().unwrap().took));
    let round = tracker.round().unwrap();
    for dirty in [&round.dirty, &last.dirty] {
        let runs: Vec<PageRun> = dirty.within(memory).collect();
        assert_eq!(runs.len() as u64, memory.pages.div_ceil(16));
        assert!(runs.iter().all(|run| run.pages == 1));
    }
    let pages = memory.pages;
    eprintln!(
        "{pages} pages, 1 in 16 dirty: round {:?}, last scan {:?}",
        round.took, last.took
    );
}
