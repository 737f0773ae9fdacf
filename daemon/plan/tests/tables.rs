//! Plans of known situations.

use std::time::Duration;

use lifeboat_plan::{
    Costs, Ewma, Link, Machine, Need, PACK_BYTES_MIN, PrecopyState, Progress, Situation, Steady,
    Verdict::{self, GiveUp, Queued, Start, TooLate, Try, UnderWay},
    freeze_now, pack_bytes, plan, predict, steady_unsaved,
};

const GIB: u64 = 1 << 30;

/// 100 MB/s, codecs as usual: 1 GiB takes about 3.6 s.
fn machine() -> Machine {
    let mut commit = Ewma::default();
    commit.note(0.2, 0.3);
    Machine {
        threads: 2.0,
        describes_at_once: 4,
        link: Link {
            bytes_per_second: 100e6,
            spread: 0.0,
            workload_bytes_per_second: None,
            latency: Duration::from_millis(20),
        },
        commit,
        lead: Duration::from_millis(250),
    }
}

fn need(priority: i32, bytes: u64) -> Need {
    Need {
        priority,
        unsaved_bytes: bytes,
        unsaved_bytes_max: bytes,
        dirty_bytes_per_second: 0,
        describe: Duration::from_millis(150),
        costs: Costs::default(),
        progress: Progress::Waiting,
    }
}

fn verdicts(needs: &[Need], seconds: u64) -> Vec<Verdict> {
    let plan = plan(&Situation {
        left: Duration::from_secs(seconds),
        machine: machine(),
        needs,
    });
    plan.steps.iter().map(|step| step.verdict).collect()
}

#[test]
fn one_workload_that_fits_is_started_at_once() {
    assert_eq!(verdicts(&[need(0, GIB)], 30), [Start]);
}

#[test]
fn large_ones_follow_each_other_smallest_first() {
    let needs = [need(0, 3 * GIB), need(0, GIB), need(0, 2 * GIB)];
    assert_eq!(verdicts(&needs, 30), [Queued, Start, Queued]);
}

#[test]
fn small_ones_go_together_as_far_as_they_can_be_described_together() {
    let needs = [need(0, 1 << 20); 6];
    let expected = [Start, Start, Start, Start, Queued, Queued];
    assert_eq!(verdicts(&needs, 30), expected);
}

#[test]
fn when_not_all_fit_the_most_are_saved() {
    let needs = [
        need(0, 7 * GIB),
        need(0, 2 * GIB),
        need(0, 3 * GIB),
        need(0, GIB),
    ];
    assert_eq!(verdicts(&needs, 25), [TooLate, Queued, Queued, Start]);
}

#[test]
fn priority_comes_before_number() {
    let needs = [need(5, 6 * GIB), need(0, 2 * GIB), need(0, GIB / 4)];
    assert_eq!(verdicts(&needs, 24), [Start, TooLate, Queued]);
}

#[test]
fn a_large_one_of_high_priority_that_cannot_make_it_does_not_keep_others() {
    let needs = [need(5, 60 * GIB), need(0, 2 * GIB)];
    assert_eq!(verdicts(&needs, 15), [TooLate, Start]);
}

#[test]
fn what_is_nearly_in_time_is_tried_when_nothing_else_needs_the_time() {
    let needs = [need(0, 4 * GIB)];
    // About 14.5 s with the commit.
    assert_eq!(verdicts(&needs, 30), [Start]);
    assert_eq!(verdicts(&needs, 14), [Try]);
    assert_eq!(verdicts(&needs, 10), [TooLate]);
}

#[test]
fn what_is_under_way_and_cannot_make_it_any_more_is_given_up() {
    let moving = |bytes| Progress::Moving {
        raw_bytes: bytes,
        queued_bytes: 0,
    };
    let needs = [
        Need {
            progress: moving(8 * GIB),
            ..need(0, 8 * GIB)
        },
        Need {
            progress: moving(GIB),
            ..need(0, 4 * GIB)
        },
        need(0, GIB),
    ];
    assert_eq!(verdicts(&needs, 10), [GiveUp, UnderWay, Queued]);
}

#[test]
fn margins_are_what_the_model_says() {
    let needs = [need(0, GIB), need(0, GIB)];
    let plan = plan(&Situation {
        left: Duration::from_secs(30),
        machine: machine(),
        needs: &needs,
    });
    let outlooks = predict(&machine(), &needs, &[0, 1]);
    // The second one is described while the first one moves: the link is never idle after that.
    let moving = needs[0].alone(&machine()).as_secs_f64() - 0.15 - 0.2;
    let second = outlooks[1].moved_in.as_secs_f64() - 0.15;
    assert!((second - 2.0 * moving).abs() < 0.01, "{outlooks:?}");
    let margin = 30.0 - outlooks[1].saved_in.as_secs_f64();
    assert!((plan.steps[1].margin - margin).abs() < 1e-6);
}

#[test]
fn a_workload_is_frozen_when_copying_ahead_gains_no_more() {
    let state = |dirty, unsaved, slack| PrecopyState {
        slack: Duration::from_secs(slack),
        need: Need {
            dirty_bytes_per_second: dirty,
            unsaved_bytes_max: 4 * GIB,
            ..need(0, unsaved)
        },
    };
    let table = [
        (10 << 20, GIB, 20, false, "a round leaves 4 % of it"),
        (10 << 20, GIB, 0, true, "there is no time for a round"),
        (400 << 20, GIB, 20, true, "more is written than moved"),
        (10 << 20, 4 << 20, 20, true, "the freeze is short already"),
    ];
    for (dirty, unsaved, slack, freeze, why) in table {
        assert_eq!(
            freeze_now(&machine(), &state(dirty, unsaved, slack)),
            freeze,
            "{why}"
        );
    }
}

#[test]
fn packs_become_small_towards_the_end() {
    let size = |left, busy| {
        pack_bytes(
            &machine(),
            Duration::from_millis(left),
            Duration::from_millis(busy),
        )
    };
    assert_eq!(size(30_000, 25_000), 16 << 20);
    assert!(size(30_000, 1_000) < 5 << 20);
    // Two latencies of 20 ms at 100 MB/s.
    assert_eq!(size(100, 100), 4_000_000);
    let mut near = machine();
    near.link.latency = Duration::from_millis(1);
    assert_eq!(
        pack_bytes(&near, Duration::ZERO, Duration::ZERO),
        PACK_BYTES_MIN
    );
}

#[test]
fn a_workload_is_evacuable_while_its_unsaved_memory_fits_the_notice() {
    let deadline = Duration::from_secs(30);
    let fits = Steady::of(&machine(), &need(0, 4 * GIB), deadline);
    assert!(fits.is_evacuable() && fits.dirty_bytes_per_second_max > 0);
    let seconds = fits.time_to_safe.as_secs_f64();
    assert!((14.0..15.5).contains(&seconds), "{seconds}");
    let large = Steady::of(&machine(), &need(0, 12 * GIB), deadline);
    assert!(!large.is_evacuable());
    assert_eq!(large.dirty_bytes_per_second_max, 0);
}

#[test]
fn what_is_written_faster_than_moved_stays_unsaved() {
    let interval = Duration::from_secs(1);
    let writing = |rate| Need {
        dirty_bytes_per_second: rate,
        unsaved_bytes_max: 2 * GIB,
        ..need(0, 0)
    };
    assert_eq!(
        steady_unsaved(&machine(), &writing(1 << 40), interval),
        2 * GIB
    );
    let little = steady_unsaved(&machine(), &writing(10 << 20), interval);
    assert!((10 << 20..12 << 20).contains(&little), "{little}");
}
