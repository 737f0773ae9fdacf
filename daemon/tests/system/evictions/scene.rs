//! What is made up.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::support::c_program;

/// Part of the evictions that are too much for their link.
const TOO_MUCH: f64 = 0.25;

/// One workload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Memory, in MiB.
    pub mib: u64,
    /// What it rewrites twenty times a second, in KiB.
    pub rewrites_kib: u64,
    /// Its priority.
    pub priority: i32,
    /// Whether there is a checkpoint of it when the notice comes.
    pub has_checkpoint: bool,
}

/// An eviction.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// Rate of each machine's link.
    pub megabits: u64,
    /// Time that the notice leaves.
    pub within: Duration,
    /// Time that memory was copied ahead for.
    pub settles: Duration,
    /// Whether the new machine waits from the notice on, or comes when the old one is gone.
    pub waits: bool,
    /// The workloads.
    pub workloads: Vec<Plan>,
}

/// The name of the `number`-th workload.
pub(super) fn name(number: usize) -> String {
    format!("w{number}")
}

impl Scene {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        if chance.random_bool(TOO_MUCH) {
            return Self::too_much(&mut chance);
        }
        let number = chance.random_range(1..=12);
        let plan = |chance: &mut StdRng| Plan {
            mib: chance.random_range(4..=64),
            rewrites_kib: [0, 16, 128, 512][chance.random_range(0..4)],
            priority: chance.random_range(-1..=2),
            has_checkpoint: chance.random_bool(0.4),
        };
        Self {
            megabits: chance.random_range(200..=2000),
            within: Duration::from_secs(chance.random_range(10..=30)),
            settles: Duration::from_millis(chance.random_range(0..=4000)),
            waits: chance.random_bool(0.5),
            workloads: (0..number).map(|_| plan(&mut chance)).collect(),
        }
    }

    /// More than the link carries in the time that there is: not all can be saved.
    fn too_much(chance: &mut StdRng) -> Self {
        let plan = |chance: &mut StdRng| Plan {
            mib: chance.random_range(48..=96),
            rewrites_kib: [0, 512, 2048][chance.random_range(0..3)],
            priority: chance.random_range(-1..=2),
            has_checkpoint: chance.random_bool(0.2),
        };
        let number = chance.random_range(9..=12);
        Self {
            megabits: chance.random_range(200..=250),
            within: Duration::from_secs(10),
            settles: Duration::ZERO,
            waits: chance.random_bool(0.5),
            workloads: (0..number).map(|_| plan(chance)).collect(),
        }
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let mib: u64 = self.workloads.iter().map(|one| one.mib).sum();
        format!(
            "{} workloads of {mib} MiB, {} Mbit/s, {:?} after {:?}{}",
            self.workloads.len(),
            self.megabits,
            self.within,
            self.settles,
            if self.waits { ", waited for" } else { "" }
        )
    }

    /// The command of the `number`-th workload.
    pub(super) fn argv(&self, number: usize) -> Vec<String> {
        let plan = self.workloads[number];
        let program = c_program("ballast", &["-static"]);
        vec![program, plan.mib.to_string(), plan.rewrites_kib.to_string()]
    }
}
