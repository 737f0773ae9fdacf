//! One notice of everything that is said about the same thing. A pure state machine.
//!
//! There is only one machine, so everything said about it is about one future. For each scope the notice
//! is a function of the sightings that stand, and of nothing else:
//!
//! - kind: the most urgent. Confidence: the highest, deadline: the earliest, of those of the same class
//!   (what ends programs, or early signals).
//! - a repetition by the same source never postpones a deadline.
//! - sources: in the order of their first sighting.
//!
//! - what a file, a call or a signal says is over a moment after its deadline: they cannot take it back.
//!
//! So the order in which sources speak does not matter, a repetition changes nothing, and a withdrawal by
//! one source does not withdraw what another still says.

use std::time::{Duration, Instant};

use crate::notice::{Change, Notice, Scope, Sighting, Source};

/// Most sightings that stand at once; more are not taken in, which is logged. A machine has one future,
/// and a node at most a few hundred pods.
pub const SIGHTINGS_MAX: usize = 1024;

/// How long after its deadline something that was said once is over.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// The state.
#[derive(Debug, Default)]
pub struct Merge {
    standing: Vec<Standing>,
    given: Vec<Notice>,
    numbers: u64,
}

/// A sighting that stands.
#[derive(Debug)]
struct Standing {
    sighting: Sighting,
    tellings: u64,
}

impl Merge {
    /// Takes a sighting in.
    pub fn seen(&mut self, mut sighting: Sighting) -> Vec<Change> {
        let scope = sighting.scope.clone();
        let is_same = |Standing { sighting: one, .. }: &Standing| {
            (one.source, &one.key, &one.scope) == (sighting.source, &sighting.key, &sighting.scope)
        };
        match self.standing.iter().position(is_same) {
            Some(at) => {
                let known = &mut self.standing[at];
                let is_past = |at: Instant| at <= Instant::now();
                if known.sighting.kind == sighting.kind
                    && !known.sighting.deadline.is_some_and(is_past)
                {
                    // Somebody who repeats himself does not postpone anything.
                    sighting.deadline = earliest([known.sighting.deadline, sighting.deadline]);
                }
                known.tellings += u64::from(sighting.source.says_once());
                known.sighting = sighting;
            }
            None if self.standing.len() >= SIGHTINGS_MAX => {
                tracing::error!(source = %sighting.source, "too many notices at once");
                return Vec::new();
            }
            None => self.standing.push(Standing {
                sighting,
                tellings: 1,
            }),
        }
        self.update(&scope)
    }

    /// Forgets what `source` saw under `key`.
    pub fn gone(&mut self, source: Source, key: &str) -> Vec<Change> {
        let is_it = |one: &Standing| one.sighting.source == source && one.sighting.key == key;
        match self.standing.iter().position(is_it) {
            Some(at) => self.remove(at),
            None => Vec::new(),
        }
    }

    /// When something is over by itself, if anything will be.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.standing.iter().filter_map(Standing::end).min()
    }

    /// Forgets one thing that is over by itself at `now`; nothing changes when there is none.
    pub fn end(&mut self, now: Instant) -> Vec<Change> {
        let is_over = |one: &Standing| one.end().is_some_and(|end| end <= now);
        match self.standing.iter().position(is_over) {
            Some(at) => self.remove(at),
            None => Vec::new(),
        }
    }

    fn remove(&mut self, at: usize) -> Vec<Change> {
        let scope = self.standing.remove(at).sighting.scope;
        self.update(&scope)
    }

    /// The notices that stand.
    #[must_use]
    pub fn given(&self) -> &[Notice] {
        &self.given
    }

    fn update(&mut self, scope: &Scope) -> Vec<Change> {
        let at = self.given.iter().position(|one| one.scope == *scope);
        let now = fold(&self.standing, scope);
        match (at, now) {
            (None, None) => Vec::new(),
            (None, Some(now)) => vec![self.give(now)],
            (Some(at), None) => vec![Change::Withdrawn(self.given.remove(at))],
            (Some(at), Some(now)) => self.change(at, now),
        }
    }

    fn change(&mut self, at: usize, mut now: Notice) -> Vec<Change> {
        let known = &mut self.given[at];
        if known.kind.ends_programs() && !now.kind.ends_programs() {
            // What was to end programs was taken back; what remains is a notice of its own.
            let withdrawn = Change::Withdrawn(self.given.remove(at));
            return vec![withdrawn, self.give(now)];
        }
        now.number = known.number;
        if *known == now {
            return Vec::new();
        }
        known.clone_from(&now);
        vec![Change::Changed(now)]
    }

    fn give(&mut self, mut notice: Notice) -> Change {
        self.numbers += 1;
        notice.number = self.numbers;
        self.given.push(notice.clone());
        Change::Given(notice)
    }
}

impl Standing {
    fn end(&self) -> Option<Instant> {
        let once = self.sighting.source.says_once();
        self.sighting
            .deadline
            .filter(|_| once)?
            .checked_add(OVER_AFTER)
    }
}

fn fold(standing: &[Standing], scope: &Scope) -> Option<Notice> {
    let all = || standing.iter().filter(|one| one.sighting.scope == *scope);
    let about = || all().map(|one| &one.sighting);
    let kind = about().map(|one| one.kind).max()?;
    let of_class = || about().filter(|one| one.kind.ends_programs() == kind.ends_programs());
    let confidence = of_class().map(|one| one.confidence).max()?;
    let mut sources = Vec::new();
    for one in about() {
        if !sources.contains(&one.source) {
            sources.push(one.source);
        }
    }
    Some(Notice {
        number: 0,
        scope: scope.clone(),
        kind,
        deadline: earliest(of_class().map(|one| one.deadline)),
        confidence,
        sources,
        tellings: all()
            .filter(|one| one.sighting.source.says_once())
            .map(|one| one.tellings)
            .sum(),
    })
}

fn earliest(all: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    all.into_iter().flatten().min()
}
