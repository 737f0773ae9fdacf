//! What happens when some workloads are saved in a given order: the model that plans are made with.
//!
//! Workloads start in order. The next one starts when what moves already will not keep the link busy
//! until the next one is described: so the link never falls idle, and no more is frozen than must be.

use std::time::Duration;

use crate::{
    machine::Machine,
    need::{Need, Progress},
    numbers::duration,
};

/// Differences below this are rounding, in seconds.
const INSTANT: f64 = 1e-9;

/// When what will happen to a workload, from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// It is started.
    pub starts_in: Duration,
    /// Its last pack is acknowledged.
    pub moved_in: Duration,
    /// Its commit is acknowledged.
    pub saved_in: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Waiting,
    Describing { left: f64, work: f64 },
    Moving { left: f64 },
    Committing { left: f64 },
    Done,
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    starts: f64,
    moved: f64,
    saved: f64,
}

struct Run<'a> {
    machine: &'a Machine,
    needs: &'a [Need],
    order: &'a [usize],
    commit: f64,
    now: f64,
    phases: Vec<Phase>,
    times: Vec<Times>,
}

/// When the workloads `order` (places in `needs`) are saved, if they are started in this order and
/// nothing else is. The answer has one outlook for each place in `order`.
#[must_use]
pub fn predict(machine: &Machine, needs: &[Need], order: &[usize]) -> Vec<Outlook> {
    let mut run = Run::new(machine, needs, order);
    while run.step() {}
    run.times
        .iter()
        .map(|times| Outlook {
            starts_in: duration(times.starts),
            moved_in: duration(times.moved),
            saved_in: duration(times.saved),
        })
        .collect()
}

impl<'a> Run<'a> {
    fn new(machine: &'a Machine, needs: &'a [Need], order: &'a [usize]) -> Self {
        let commit = machine.commit_seconds();
        let phase = |place: &usize| {
            let need = &needs[*place];
            match need.progress {
                Progress::Waiting => Phase::Waiting,
                Progress::Describing { .. } => {
                    let left = need.describe_left();
                    let work = need.work(machine, left);
                    Phase::Describing { left, work }
                }
                Progress::Moving { .. } => Phase::Moving {
                    left: need.work(machine, 0.0),
                },
                Progress::Committing { since } => Phase::Committing {
                    left: (commit - since.as_secs_f64()).max(0.0),
                },
                Progress::Saved | Progress::Out => Phase::Done,
            }
        };
        Self {
            machine,
            needs,
            order,
            commit,
            now: 0.0,
            phases: order.iter().map(phase).collect(),
            times: vec![Times::default(); order.len()],
        }
    }

    /// Goes on to the next event; false when everything has happened.
    fn step(&mut self) -> bool {
        let blocked = self.start_what_may_start();
        let moving = self.count(|phase| matches!(phase, Phase::Moving { .. }));
        let share = share(moving, self.machine);
        let mut next = f64::INFINITY;
        for phase in &self.phases {
            let left = match *phase {
                Phase::Describing { left, .. } | Phase::Committing { left } => left,
                Phase::Moving { left } => left / share,
                Phase::Waiting | Phase::Done => continue,
            };
            next = next.min(left);
        }
        if let Some(backlog) = blocked
            && moving > 0
        {
            let drain = share * number(moving);
            next = next.min(backlog / drain + INSTANT);
        }
        if next.is_infinite() {
            return false;
        }
        self.advance(next, share);
        true
    }

    /// Starts workloads in order. If the next one has to wait for the link, tells how much work has
    /// to be done before.
    fn start_what_may_start(&mut self) -> Option<f64> {
        loop {
            let at = self
                .phases
                .iter()
                .position(|phase| *phase == Phase::Waiting)?;
            let describing = self.count(|phase| matches!(phase, Phase::Describing { .. }));
            if describing >= self.machine.describes_at_once.max(1) {
                return None;
            }
            let need = &self.needs[self.order[at]];
            let left = need.describe_left();
            let backlog = self.backlog() - left - self.machine.lead.as_secs_f64();
            let users = describing + self.count(|phase| matches!(phase, Phase::Moving { .. }));
            // Where one workload cannot use the whole link, several move at once.
            if backlog > 0.0 && number(users) * self.machine.share_max() >= 1.0 - INSTANT {
                return Some(backlog);
            }
            let work = need.work(self.machine, self.now + left);
            self.phases[at] = Phase::Describing { left, work };
            self.times[at].starts = self.now;
        }
    }

    /// Seconds of the whole machine for what has been started.
    fn backlog(&self) -> f64 {
        self.phases
            .iter()
            .map(|phase| match *phase {
                Phase::Describing { work, .. } => work,
                Phase::Moving { left } => left,
                _ => 0.0,
            })
            .sum()
    }

    fn advance(&mut self, by: f64, share: f64) {
        self.now += by;
        for (phase, times) in self.phases.iter_mut().zip(&mut self.times) {
            match phase {
                Phase::Describing { left, work } => {
                    *left -= by;
                    if *left <= INSTANT {
                        *phase = Phase::Moving { left: *work };
                    }
                }
                Phase::Moving { left } => {
                    *left -= by * share;
                    if *left <= INSTANT {
                        times.moved = self.now;
                        *phase = Phase::Committing { left: self.commit };
                    }
                }
                Phase::Committing { left } => {
                    *left -= by;
                    if *left <= INSTANT {
                        times.saved = self.now;
                        *phase = Phase::Done;
                    }
                }
                Phase::Waiting | Phase::Done => {}
            }
        }
    }

    fn count(&self, is: impl Fn(&Phase) -> bool) -> usize {
        self.phases.iter().filter(|phase| is(phase)).count()
    }
}

/// Share of the machine that each of some workloads gets.
fn share(users: usize, machine: &Machine) -> f64 {
    (1.0 / number(users.max(1))).min(machine.share_max())
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
