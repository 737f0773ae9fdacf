//! Which workloads are saved when not all can be.

use std::{cmp::Reverse, time::Duration};

use crate::{
    machine::{Machine, reserve},
    model::{Outlook, predict},
    need::{Need, Progress},
    numbers::duration,
};

/// How much of the link's spread is taken off what is expected of it.
const CAUTION: f64 = 0.5;

/// What is admitted.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Places of the admitted ones: what is under way, then what waits, in the order of starting.
    pub(crate) order: Vec<usize>,
    /// What will become of them.
    pub(crate) outlooks: Vec<Outlook>,
    /// Places of the others, in the order in which they would have come.
    pub(crate) rejected: Vec<usize>,
}

/// The time in which all uploads must end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    seconds: f64,
    caution: f64,
}

impl Limit {
    pub(crate) fn new(machine: &Machine, left: Duration) -> Self {
        Self {
            seconds: left.saturating_sub(reserve(machine, left)).as_secs_f64(),
            caution: 1.0 + CAUTION * machine.link.spread,
        }
    }

    /// Whether an upload that is expected to end then ends in time.
    pub(crate) fn allows(self, moved_in: Duration) -> bool {
        moved_in.as_secs_f64() * self.caution <= self.seconds
    }
}

/// Chooses: by priority; within a priority the smallest first, as many as fit.
pub(crate) fn admit(machine: &Machine, needs: &[Need], left: Duration) -> Admission {
    let limit = Limit::new(machine, left);
    let mut candidates: Vec<usize> = (0..needs.len())
        .filter(|place| !matches!(needs[*place].progress, Progress::Saved | Progress::Out))
        .collect();
    candidates.sort_by_key(|place| {
        let need = &needs[*place];
        // Describing goes on beside other things; it only decides between equals.
        let work = duration(need.work(machine, 0.0));
        (
            Reverse(need.priority),
            !matches!(need.progress, Progress::Committing { .. }),
            work,
            need.describe,
            *place,
        )
    });
    let mut chosen: Vec<usize> = Vec::new();
    let mut rejected = Vec::new();
    for class in candidates.chunk_by(|a, b| needs[*a].priority == needs[*b].priority) {
        let fitting = most(class.len(), |count| {
            let tried: Vec<usize> = chosen.iter().chain(&class[..count]).copied().collect();
            fits(machine, needs, tried, limit).is_some()
        });
        chosen.extend(&class[..fitting]);
        rejected.extend(&class[fitting..]);
    }
    let order = in_order_of_starting(needs, chosen);
    let outlooks = predict(machine, needs, &order);
    Admission {
        order,
        outlooks,
        rejected,
    }
}

/// What will become of `places`, if all of them end in time.
pub(crate) fn fits(
    machine: &Machine,
    needs: &[Need],
    places: Vec<usize>,
    limit: Limit,
) -> Option<Vec<Outlook>> {
    let order = in_order_of_starting(needs, places);
    let outlooks = predict(machine, needs, &order);
    let mut all = order.iter().zip(&outlooks);
    let in_time = all.all(|(place, outlook)| {
        // What is being committed does not wait for the link any more.
        matches!(needs[*place].progress, Progress::Committing { .. })
            || limit.allows(outlook.moved_in)
    });
    in_time.then_some(outlooks)
}

fn in_order_of_starting(needs: &[Need], mut places: Vec<usize>) -> Vec<usize> {
    // Stable: within each part the order stays.
    places.sort_by_key(|place| !needs[*place].progress.is_active());
    places
}

/// The largest count up to `all` that is possible, if every smaller one is as well; found with few
/// questions.
fn most(all: usize, possible: impl Fn(usize) -> bool) -> usize {
    if possible(all) {
        return all;
    }
    let (mut yes, mut no) = (0, all);
    while no - yes > 1 {
        let middle = usize::midpoint(yes, no);
        if possible(middle) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    yes
}
