//! What every plan guarantees, whatever the situation.

use std::time::Duration;

use lifeboat_plan::{
    Codec, Cost, Costs, Ewma, Link, Machine, Need, Plan, Progress, Situation, Verdict, plan,
    reserve,
};
use proptest::prelude::*;

fn machine() -> impl Strategy<Value = Machine> {
    (
        1.0..16.0_f64,
        1_usize..8,
        5e6..2e9_f64,
        0.0..0.5_f64,
        proptest::option::of(1e6..1e9_f64),
        0_u64..200,
        0.0..2.0_f64,
    )
        .prop_map(|(threads, at_once, rate, spread, cap, latency, commit)| {
            let mut measured = Ewma::default();
            measured.note(commit, 0.3);
            measured.note(commit * 1.2, 0.3);
            Machine {
                threads,
                describes_at_once: at_once,
                link: Link {
                    bytes_per_second: rate,
                    spread,
                    workload_bytes_per_second: cap,
                    latency: Duration::from_millis(latency),
                },
                commit: measured,
                lead: Duration::from_millis(250),
            }
        })
}

fn progress() -> impl Strategy<Value = Progress> {
    let bytes = 0_u64..1 << 32;
    let since = (0_u64..2000).prop_map(Duration::from_millis);
    prop_oneof![
        6 => Just(Progress::Waiting),
        1 => since.clone().prop_map(|since| Progress::Describing { since }),
        1 => (bytes.clone(), bytes)
            .prop_map(|(raw_bytes, queued_bytes)| Progress::Moving { raw_bytes, queued_bytes }),
        1 => since.prop_map(|since| Progress::Committing { since }),
        1 => Just(Progress::Saved),
        1 => Just(Progress::Out),
    ]
}

fn need() -> impl Strategy<Value = Need> {
    (
        -2_i32..3,
        (0_u64..8 << 30, 0_u64..8 << 30),
        0_u64..1 << 30,
        0_u64..3000,
        0.05..1.1_f64,
        progress(),
    )
        .prop_map(
            |(priority, unsaved, dirty, describe, ratio, progress)| Need {
                priority,
                unsaved_bytes: unsaved.0,
                unsaved_bytes_max: unsaved.1,
                dirty_bytes_per_second: dirty,
                describe: Duration::from_millis(describe),
                costs: Costs::default().with(
                    Codec::Zstd1,
                    Cost {
                        ratio,
                        seconds_per_byte: 2e-9,
                    },
                ),
                progress,
            },
        )
}

fn needs() -> impl Strategy<Value = Vec<Need>> {
    proptest::collection::vec(need(), 0..24)
}

fn make(machine: Machine, needs: &[Need], left: Duration) -> Plan {
    plan(&Situation {
        left,
        machine,
        needs,
    })
}

fn is_admitted(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::UnderWay | Verdict::Start | Verdict::Queued
    )
}

/// How many are admitted of each priority, highest first.
fn admitted(plan: &Plan, needs: &[Need]) -> Vec<usize> {
    (-2..3)
        .rev()
        .map(|priority| {
            let of_it = plan.steps.iter().zip(needs);
            of_it
                .filter(|(step, need)| need.priority == priority && is_admitted(step.verdict))
                .count()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn more_time_never_saves_less(
        machine in machine(), needs in needs(), millis in 0_u64..60_000, more in 0_u64..60_000,
    ) {
        let left = Duration::from_millis(millis);
        let less = admitted(&make(machine, &needs, left), &needs);
        let more = admitted(&make(machine, &needs, left + Duration::from_millis(more)), &needs);
        prop_assert!(more >= less, "{less:?} becomes {more:?}");
    }

    #[test]
    fn nothing_is_planned_beyond_the_reserve(
        machine in machine(), needs in needs(), millis in 0_u64..60_000,
    ) {
        let left = Duration::from_millis(millis);
        let plan = make(machine, &needs, left);
        let kept = reserve(&machine, left);
        prop_assert_eq!(plan.reserve, kept);
        prop_assert!(kept <= left / 4);
        for (step, need) in plan.steps.iter().zip(&needs) {
            let past_uploads = matches!(need.progress, Progress::Committing { .. });
            if is_admitted(step.verdict) && !past_uploads {
                prop_assert!(step.outlook.moved_in <= left - kept, "{step:?}");
                prop_assert!(step.outlook.starts_in <= step.outlook.moved_in);
                prop_assert!(step.outlook.moved_in <= step.outlook.saved_in);
            }
        }
    }

    #[test]
    fn lower_priorities_never_change_what_is_planned_for_higher_ones(
        machine in machine(), needs in needs(), millis in 0_u64..60_000, least in -2_i32..3,
    ) {
        let left = Duration::from_millis(millis);
        let all = make(machine, &needs, left);
        let higher: Vec<Need> = needs.iter().copied().filter(|need| need.priority >= least).collect();
        let alone = make(machine, &higher, left);
        let with = all.steps.iter().zip(&needs).filter(|(_, need)| need.priority >= least);
        for ((with, _), alone) in with.zip(&alone.steps) {
            prop_assert_eq!(is_admitted(with.verdict), is_admitted(alone.verdict));
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_figures_and_is_not_started(
        machine in machine(), needs in needs(), millis in 0_u64..60_000,
    ) {
        let plan = make(machine, &needs, Duration::from_millis(millis));
        for (place, (step, need)) in plan.steps.iter().zip(&needs).enumerate() {
            let started = plan.start.contains(&place);
            match step.verdict {
                Verdict::Start | Verdict::Try => {
                    prop_assert!(started);
                    prop_assert_eq!(need.progress, Progress::Waiting);
                }
                Verdict::TooLate => {
                    prop_assert!(!started && need.progress == Progress::Waiting);
                    prop_assert!(step.outlook.saved_in >= need.describe);
                }
                Verdict::UnderWay | Verdict::AtRisk | Verdict::GiveUp => {
                    prop_assert!(!started && need.progress.is_active());
                }
                Verdict::Saved | Verdict::Out | Verdict::Queued => prop_assert!(!started),
            }
        }
    }

    #[test]
    fn something_is_always_begun_while_anything_waits_that_fits(
        machine in machine(), needs in needs(), millis in 0_u64..60_000,
    ) {
        let plan = make(machine, &needs, Duration::from_millis(millis));
        let waits = plan.steps.iter().any(|step| step.verdict == Verdict::Queued);
        let going = needs.iter().any(|need| need.progress.is_active());
        prop_assert!(!waits || going || !plan.start.is_empty());
    }

    #[test]
    fn the_smallest_of_equals_is_begun_if_it_would_fit_alone(
        machine in machine(), first in need(), bytes in proptest::collection::vec(0_u64..8 << 30, 1..24),
        millis in 0_u64..60_000,
    ) {
        let needs: Vec<Need> = bytes
            .iter()
            .map(|bytes| Need {
                priority: 0,
                unsaved_bytes: *bytes,
                unsaved_bytes_max: *bytes,
                progress: Progress::Waiting,
                ..first
            })
            .collect();
        let left = Duration::from_millis(millis);
        let (smallest, _) = bytes.iter().enumerate().min_by_key(|(_, bytes)| **bytes).unwrap();
        let alone = make(machine, &needs[smallest..=smallest], left);
        let all = make(machine, &needs, left);
        if alone.steps[0].verdict == Verdict::Start {
            prop_assert_eq!(all.steps[smallest].verdict, Verdict::Start);
        }
    }
}
