//! A machine with workloads: from their start until it is gone.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::scene::{self, Scene};
use crate::support::{Hold, HoldOptions, Node, NodeOptions, TestStore, Unreliable, eventually};

const SOON: Duration = Duration::from_secs(60);

/// Longest time that a workload may be frozen after the end, since it is not known whether its commit
/// happened.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

const CONFIG: &str = "log_json = true\n[precopy]\nshortest = '200ms'\n[save]\naudit = false\n\
                      [watch]\ncloud = 'none'\n[watch.logind]\nenabled = false\n";

/// What everybody was told of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It has left.
    Left {
        /// Before the machine was to go.
        in_time: bool,
    },
    /// It has not, and runs on as long as the machine does.
    Stays,
}

impl Told {
    pub(super) const fn has_left(self) -> bool {
        matches!(self, Self::Left { .. })
    }
}

/// A machine.
pub(super) struct Machine {
    node: Node,
    holds: Vec<Hold>,
}

impl Machine {
    pub(super) fn start(name: &str, store: &TestStore, network: &str) -> Self {
        let options = NodeOptions {
            config: CONFIG,
            network: Some(network),
            ..NodeOptions::default()
        };
        Self {
            node: Node::start_with(name, store, options),
            holds: Vec::new(),
        }
    }

    pub(super) const fn node(&self) -> &Node {
        &self.node
    }

    /// Starts all workloads, and lets the daemon look after them for a while.
    pub(super) fn run(&mut self, scene: &Scene) {
        for (number, plan) in scene.workloads.iter().enumerate() {
            let priority = format!("--priority={}", plan.priority);
            let options = HoldOptions {
                arguments: &[&priority],
                ..HoldOptions::default()
            };
            let argv = scene.argv(number);
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            let name = scene::name(number);
            self.holds
                .push(Hold::start_with(&self.node, &name, &options, &argv));
        }
        for (number, plan) in scene.workloads.iter().enumerate() {
            self.holds[number].wait_for_lines(2, SOON);
            let name = scene::name(number);
            self.node.wait_for_state(&name, "running", SOON);
            if plan.has_checkpoint {
                // The store may fail.
                eventually("there is a checkpoint", SOON, || {
                    let output = self.node.run(&["checkpoint", &name]);
                    output.status.success().then_some(())
                });
            }
        }
        let end = Instant::now() + scene.settles;
        eventually("it has settled", scene.settles + SOON, || {
            (Instant::now() >= end).then_some(())
        });
    }

    /// Gives notice; returns when that was, and when the machine will be gone, at the latest.
    pub(super) fn notice(&self, within: Duration) -> (Instant, Instant) {
        let given = Instant::now();
        let text = format!("{}s", within.as_secs());
        self.node.json(&["notice", "preemption", "--within", &text]);
        (given, Instant::now() + within)
    }

    /// Waits until everybody has left, at most until `end`.
    pub(super) fn wait_for_the_end(&mut self, end: Instant) {
        let limit = end.saturating_duration_since(Instant::now()) + SOON;
        eventually("the machine is at its end", limit, || {
            let all = self.holds.iter_mut().all(|hold| hold.ended().is_some());
            (all || Instant::now() >= end).then_some(())
        });
    }

    /// What was said of each workload, and whether that is so.
    pub(super) fn told(
        &mut self,
        scene: &Scene,
        given: Instant,
        deadline: Instant,
        door: &Unreliable,
    ) -> Vec<Told> {
        (0..scene.workloads.len())
            .map(|number| self.told_of(number, given, deadline, door))
            .collect()
    }

    fn told_of(
        &mut self,
        number: usize,
        given: Instant,
        deadline: Instant,
        door: &Unreliable,
    ) -> Told {
        let name = scene::name(number);
        // Nobody knows yet: neither has it left nor does it run.
        let limit = SETTLES_WITHIN + SOON;
        eventually("the outcome is known", limit, || {
            let is_here = self.holds[number].ended().is_none();
            let state = self.node.listed(&name).unwrap_or_default();
            (!is_here || state["state"] != "saving").then_some(())
        });
        match self.holds[number].ended() {
            Some(75) => {
                // The hold is told first.
                let save = eventually("it is announced that it has left", SOON, || {
                    let mut saves = self.saves(&name).into_iter();
                    saves.find(|save| save["committed"] == true)
                });
                let in_time = save["margin_ms"].as_i64().unwrap() >= 0;
                let committed = door.last_head(&name).unwrap();
                assert!(committed >= given, "{name}");
                // Whoever is told that it was in time can rely on it.
                assert!(!in_time || committed <= deadline, "{name}: {save}");
                Told::Left { in_time }
            }
            None => {
                let shown = self.node.listed(&name).unwrap();
                assert_eq!(shown["state"], "running", "{shown}\n{}", self.node.log());
                let (saves, log) = (self.saves(&name), self.node.log());
                let is_announced = shown["last_error"].is_string();
                assert!(is_announced, "{name}: {shown} {saves:?}\n{log}");
                self.holds[number].wait_for_more(2, SOON);
                Told::Stays
            }
            Some(status) => panic!("{name} ended with {status}: {}", self.holds[number].said()),
        }
    }

    /// The evacuations of a workload that the daemon has logged.
    fn saves(&self, name: &str) -> Vec<Value> {
        let log = self.node.log();
        let lines = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line["fields"].clone();
            let is_it = fields["message"] == "save ended"
                && fields["mode"] == "Evacuate"
                && fields["workload"] == name;
            is_it.then_some(fields)
        });
        lines.collect()
    }

    /// Waits until the daemon has noticed that the holds of some workloads are gone.
    pub(super) fn forgets(&self, which: impl Fn(usize) -> bool, scene: &Scene) {
        for number in (0..scene.workloads.len()).filter(|number| which(*number)) {
            eventually("its hold is forgotten", SOON, || {
                self.node
                    .listed(&scene::name(number))
                    .is_none()
                    .then_some(())
            });
        }
    }

    /// The machine is gone, and all that is on it. Returns what its workloads had said.
    pub(super) fn goes(&mut self) -> Vec<Vec<String>> {
        self.node.kill();
        let mut lines = Vec::new();
        for mut hold in self.holds.drain(..) {
            if hold.ended().is_some() {
                lines.push(hold.wait_for_end(SOON).1);
            } else {
                lines.push(hold.die());
            }
        }
        lines
    }
}
