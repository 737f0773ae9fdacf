//! Retries over a store that fails as told. Time is simulated, so each case is exact.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy cannot see"
)]
#![expect(clippy::panic, reason = "as above")]

mod conditional;

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use lifeboat_store::{
    Call, ErrorKind, Key, Operation, Prefix, Store, Version,
    faulty::{Faulty, Plan},
    memory::Memory,
    retry::{BUDGET, Retrying},
};
use tokio::time::Instant;

/// A store, what disturbs it, and retries around both.
struct Sea {
    calm: Memory,
    faulty: Arc<Faulty>,
    store: Arc<Retrying>,
}

fn sea(plan: &str) -> Sea {
    let calm = Memory::new();
    let faulty = Arc::new(Faulty::new(Arc::new(calm.clone()), plan.parse().unwrap()));
    let store = Arc::new(Retrying::new(Arc::clone(&faulty) as Arc<dyn Store>));
    Sea {
        calm,
        faulty,
        store,
    }
}

impl Sea {
    fn change(&self, plan: &str) {
        self.faulty.set_rules(plan.parse::<Plan>().unwrap().rules);
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn soon() -> Call {
    Call::within(secs(10))
}

/// Timers are exact to a millisecond.
const TOLERANCE: Duration = Duration::from_millis(5);

const BODY: Bytes = Bytes::from_static(b"what is to be kept");

#[tokio::test(start_paused = true)]
async fn an_outage_is_outlasted() {
    let sea = sea("any.fail:transient@t0s-5s");
    let began = Instant::now();
    sea.store.put(&key("a"), BODY, soon()).await.unwrap();
    let took = began.elapsed();
    assert!(took >= secs(5) && took < secs(7), "{took:?}");
    assert_eq!(
        sea.calm.get(&key("a"), 99, soon()).await.unwrap().bytes,
        BODY
    );
    assert_eq!(
        sea.store.stats().retries + 1,
        sea.faulty.calls(Operation::Put) as u64
    );
}

#[tokio::test(start_paused = true)]
async fn retries_end_at_the_deadline_and_tell_the_last_failure() {
    let sea = sea("any.fail:transient");
    let began = Instant::now();
    let error = sea
        .store
        .put(&key("a/b"), BODY, Call::within(secs(3)))
        .await
        .unwrap_err();
    assert!(
        began.elapsed() <= secs(3) + TOLERANCE,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::Deadline, Operation::Put)
    );
    assert!(error.to_string().contains("a/b"), "{error}");
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("plan of faults"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_budget_ends_it() {
    let sea = sea("any.fail:transient");
    let began = Instant::now();
    let error = sea
        .store
        .head(&key("a"), Call::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(
        began.elapsed() <= BUDGET + TOLERANCE,
        "{:?}",
        began.elapsed()
    );
    assert!(sea.faulty.calls(Operation::Head) > 50, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_over_is_not_begun() {
    let sea = sea("");
    let error = sea
        .store
        .put(&key("a"), BODY, Call::by(Instant::now()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert_eq!(sea.faulty.calls(Operation::Put), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_hangs_longer_than_the_deadline() {
    let sea = sea("any.hang");
    let (store, name, version) = (&sea.store, key("a"), Version::new("1"));
    let call = || Call::within(secs(3));
    for number in 0..8 {
        let began = Instant::now();
        let error = match number {
            0 => store.put(&name, BODY, call()).await.err(),
            1 => store.put_if_absent(&name, BODY, call()).await.err(),
            2 => store
                .put_if_match(&name, BODY, &version, call())
                .await
                .err(),
            3 => store.get(&name, 99, call()).await.err(),
            4 => store.get_range(&name, 0, 9, call()).await.err(),
            5 => store.head(&name, call()).await.err(),
            6 => store.list(&Prefix::ROOT, None, call()).await.err(),
            _ => store.delete(&name, call()).await.err(),
        };
        let error = error.unwrap();
        let took = began.elapsed();
        assert!(
            took >= secs(2) && took <= secs(3) + TOLERANCE,
            "{error} took {took:?}"
        );
        let conditional = (1..=2).contains(&number);
        let kind = if conditional {
            ErrorKind::Unknown
        } else {
            ErrorKind::Deadline
        };
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_hanging_connection_costs_a_hedge_and_not_the_deadline() {
    let sea = sea("range.hang@1");
    sea.calm.put(&key("a"), BODY, soon()).await.unwrap();
    let began = Instant::now();
    assert_eq!(
        sea.store.get_range(&key("a"), 0, 4, soon()).await.unwrap(),
        BODY[..4]
    );
    assert!(began.elapsed() < secs(2), "{:?}", began.elapsed());
    let stats = sea.store.stats();
    assert_eq!((stats.hedges, stats.hedges_won, stats.retries), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_second_hanging_connection_is_given_up_in_time() {
    let sea = sea("put.hang@1-2");
    let began = Instant::now();
    sea.store.put(&key("a"), BODY, soon()).await.unwrap();
    assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    assert_eq!(sea.store.stats().timeouts, 1);
}

#[tokio::test(start_paused = true)]
async fn hedges_cut_the_slow_tail() {
    let sea = sea("seed=3;range.delay:20ms;range.delay:5s@p0.03");
    sea.calm.put(&key("a"), BODY, soon()).await.unwrap();
    let mut took = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        sea.store.get_range(&key("a"), 0, 4, soon()).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort_unstable();
    // Without hedges 30 of 1000 take 5 s. A hedge meets the tail again in 1 of 1000.
    assert!(took[990] < Duration::from_millis(100), "{:?}", &took[980..]);
    assert!(sea.store.stats().hedges < 60, "{:?}", sea.store.stats());
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_gets_the_time_it_needs() {
    // 16 MiB at 1 MB/s: longer than the first attempts may take.
    let sea = sea("put.throttle:1M");
    let body = Bytes::from(vec![1; 16 << 20]);
    sea.store
        .put(&key("a"), body, Call::within(secs(60)))
        .await
        .unwrap();
    assert!(sea.store.stats().timeouts >= 1);
}

#[tokio::test(start_paused = true)]
async fn failures_for_good_are_told_at_once() {
    for kind in [
        "denied", "full", "notfound", "nobucket", "invalid", "exists", "conflict",
    ] {
        let sea = sea(&format!("any.fail:{kind}"));
        let name = key("a");
        let put = sea.store.put(&name, BODY, soon()).await.unwrap_err();
        let create = sea
            .store
            .put_if_absent(&name, BODY, soon())
            .await
            .unwrap_err();
        let version = Version::new("1");
        let replace = sea
            .store
            .put_if_match(&name, BODY, &version, soon())
            .await
            .unwrap_err();
        assert_eq!((put.kind(), put.kind()), (create.kind(), replace.kind()));
        let calls = [
            Operation::Put,
            Operation::PutIfAbsent,
            Operation::PutIfMatch,
            Operation::Get,
        ];
        assert_eq!(
            calls.map(|operation| sea.faulty.calls(operation)),
            [1, 1, 1, 0],
            "{kind}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn corrupted_bytes_are_passed_on() {
    let sea = sea("seed=1;read.corrupt");
    sea.calm.put(&key("a"), BODY, soon()).await.unwrap();
    let got = sea
        .store
        .get_range(&key("a"), 0, BODY.len() as u64, soon())
        .await
        .unwrap();
    assert!(got != BODY && got.len() == BODY.len());
    let got = sea.store.get(&key("a"), 99, soon()).await.unwrap().bytes;
    assert!(got != BODY && got.len() == BODY.len());
}

#[tokio::test(start_paused = true)]
async fn short_ranges_are_read_again() {
    let sea = sea("range.truncate:3@1-2");
    sea.calm.put(&key("a"), BODY, soon()).await.unwrap();
    assert_eq!(
        sea.store.get_range(&key("a"), 1, 8, soon()).await.unwrap(),
        BODY[1..9]
    );
    assert_eq!(sea.faulty.calls(Operation::GetRange), 3);
}
