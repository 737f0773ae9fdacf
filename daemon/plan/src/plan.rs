//! The plan: what is to be done with each workload now, and what will become of it.

use std::time::Duration;

use crate::{
    admit::{Admission, Limit, admit, fits},
    machine::{Machine, reserve},
    model::{Outlook, predict},
    need::{Need, Progress},
    pack::pack_bytes,
    precopy::PrecopyState,
};

/// The link may turn out this much better than measured, at least: the benefit of the doubt for
/// what would otherwise be left behind.
const DOUBT_MIN: f64 = 0.1;

/// What is known when a plan is made.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Time until the deadline.
    pub left: Duration,
    /// What all share.
    pub machine: Machine,
    /// The workloads.
    pub needs: &'a [Need],
}

/// What is to be done with a workload now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is saved.
    Saved,
    /// It is under way, and will be in time.
    UnderWay,
    /// It is under way, and will be in time only if things turn out better than expected.
    AtRisk,
    /// It is to be started now.
    Start,
    /// It is to be started now, since nothing else can use the time; it is not expected to make it.
    Try,
    /// It will be started later, and be in time.
    Queued,
    /// It is to be called off: it cannot make it any more, or keeps others from making it.
    GiveUp,
    /// It cannot make it; it runs on, and keeps its last checkpoint.
    TooLate,
    /// Nothing will become of it.
    Out,
}

impl Verdict {
    /// Whether people must be told that the workload may not make it.
    #[must_use]
    pub const fn is_bad_news(self) -> bool {
        matches!(
            self,
            Self::AtRisk | Self::Try | Self::GiveUp | Self::TooLate | Self::Out
        )
    }
}

/// What is to be done with a workload, and what will become of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What is to be done.
    pub verdict: Verdict,
    /// What will become of it, as far as it is planned; of what cannot make it, as if it were alone.
    pub outlook: Outlook,
    /// Seconds between its commit and the deadline; negative if it is too late.
    pub margin: f64,
}

/// The plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// A step for each workload, in the order of the needs.
    pub steps: Vec<Step>,
    /// Places of the workloads to start now, in order.
    pub start: Vec<usize>,
    /// Time before the deadline that is kept for commits.
    pub reserve: Duration,
    /// Time that is left over when all that is planned has been uploaded: pre-copying may use it.
    pub slack: Duration,
    /// Size of the packs to be made from now on, in bytes.
    pub pack_bytes: u64,
}

impl Plan {
    /// Whether a workload that is about to be started is frozen at once, or copied ahead once more.
    #[must_use]
    pub fn freezes(&self, machine: &Machine, need: &Need) -> bool {
        let state = PrecopyState {
            slack: self.slack,
            need: *need,
        };
        crate::precopy::freeze_now(machine, &state)
    }
}

/// Makes the plan.
#[must_use]
pub fn plan(situation: &Situation<'_>) -> Plan {
    let Situation {
        left,
        ref machine,
        needs,
    } = *situation;
    let admission = admit(machine, needs, left);
    let mut steps: Vec<Step> = needs
        .iter()
        .map(|need| beginning(machine, need, left))
        .collect();
    let mut start = Vec::new();
    for (place, outlook) in admission.order.iter().zip(&admission.outlooks) {
        let verdict = if needs[*place].progress.is_active() {
            Verdict::UnderWay
        } else if outlook.starts_in.is_zero() {
            start.push(*place);
            Verdict::Start
        } else {
            Verdict::Queued
        };
        steps[*place] = step(verdict, *outlook, left);
    }
    let queued = steps.iter().any(|step| step.verdict == Verdict::Queued);
    let mut risky = judge_rejected(situation, &admission, &mut steps);
    if !queued && risky.is_none() {
        risky = attempt(situation, &admission, &mut steps);
        start.extend(risky);
    }
    let reserve = reserve(machine, left);
    let last = admission.outlooks.iter().map(|outlook| outlook.moved_in);
    let last = last.max().unwrap_or_default();
    let slack = if risky.is_some() || steps.iter().any(|step| step.verdict.is_bad_news()) {
        Duration::ZERO
    } else {
        left.saturating_sub(reserve).saturating_sub(last)
    };
    Plan {
        steps,
        start,
        reserve,
        slack,
        pack_bytes: pack_bytes(machine, left.saturating_sub(reserve), last),
    }
}

/// What holds of a workload unless it is admitted.
fn beginning(machine: &Machine, need: &Need, left: Duration) -> Step {
    match need.progress {
        Progress::Saved => step(Verdict::Saved, Outlook::default(), left),
        Progress::Out => step(Verdict::Out, Outlook::default(), left),
        _ => {
            let saved_in = need.alone(machine);
            let outlook = Outlook {
                starts_in: Duration::ZERO,
                moved_in: saved_in,
                saved_in,
            };
            step(Verdict::TooLate, outlook, left)
        }
    }
}

fn step(verdict: Verdict, outlook: Outlook, left: Duration) -> Step {
    Step {
        verdict,
        outlook,
        margin: left.as_secs_f64() - outlook.saved_in.as_secs_f64(),
    }
}

/// Decides about workloads that are under way and were not admitted; returns one that goes on.
fn judge_rejected(
    situation: &Situation<'_>,
    admission: &Admission,
    steps: &mut [Step],
) -> Option<usize> {
    let needs = situation.needs;
    let active = |place: &&usize| needs[**place].progress.is_active();
    let mut going = admission.order.clone();
    let mut found = None;
    for place in admission.rejected.iter().filter(active) {
        let with: Vec<usize> = going.iter().copied().chain([*place]).collect();
        let verdict = match could_work(situation, &with) {
            true => {
                going.push(*place);
                found.get_or_insert(*place);
                Verdict::AtRisk
            }
            false => Verdict::GiveUp,
        };
        steps[*place].verdict = verdict;
    }
    found
}

/// Whether all of these would be in time if the link turned out better than expected.
fn could_work(situation: &Situation<'_>, places: &[usize]) -> bool {
    let machine = hopeful(&situation.machine);
    let seconds = situation.left.as_secs_f64() - machine.commit_seconds();
    predict(&machine, situation.needs, places)
        .iter()
        .all(|outlook| outlook.moved_in.as_secs_f64() <= seconds)
}

fn hopeful(machine: &Machine) -> Machine {
    machine.with_link(1.0 + machine.link.spread.max(DOUBT_MIN))
}

/// Finds a workload that may be tried though it is not expected to make it: it must have a chance,
/// and must not keep the others from making it.
fn attempt(situation: &Situation<'_>, admission: &Admission, steps: &mut [Step]) -> Option<usize> {
    let Situation {
        left,
        ref machine,
        needs,
    } = *situation;
    let waiting = |place: &usize| needs[*place].progress == Progress::Waiting;
    let place = admission.rejected.iter().copied().find(waiting)?;
    let with: Vec<usize> = admission.order.iter().copied().chain([place]).collect();
    if !could_work(situation, &with) {
        return None;
    }
    // As expected, only the one that is tried may be late.
    let limit = Limit::new(machine, left);
    let outlooks = predict(machine, needs, &with);
    let (tried, others) = outlooks.split_last()?;
    let harmless = fits(machine, needs, admission.order.clone(), limit).is_none()
        || others.iter().zip(&admission.order).all(|(outlook, place)| {
            matches!(needs[*place].progress, Progress::Committing { .. })
                || limit.allows(outlook.moved_in)
        });
    if !harmless || !tried.starts_in.is_zero() {
        return None;
    }
    steps[place] = step(Verdict::Try, *tried, left);
    Some(place)
}
