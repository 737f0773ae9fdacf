//! What was seen, and whether that is everything that is to be seen.

use std::{fmt, iter::Sum};

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    /// Races of claims.
    pub claims: u64,
    /// Races of commits.
    pub commits: u64,
    /// Take-overs from an owner that came back in the middle of a commit.
    pub takeovers: u64,
    /// That was first then.
    pub source_first: u64,
    /// That was too late.
    pub source_late: u64,
    /// Claims after an owner was silent for too long.
    pub silences: u64,
}

impl Count {
    /// Races that were decided.
    pub(super) fn races(&self) -> u64 {
        self.claims + self.commits
    }

    /// Fails unless everything that is to be seen was seen.
    pub(super) fn check(self) {
        let Self {
            claims,
            commits,
            takeovers,
            source_first,
            source_late,
            silences,
        } = self;
        for number in [
            claims,
            commits,
            takeovers,
            source_first,
            source_late,
            silences,
        ] {
            assert!(number > 0, "{self}");
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} races of claims and {} of commits; {} take-overs from somebody who came back ({} of them \
             had committed before, {} were too late), {} after silence",
            self.claims,
            self.commits,
            self.takeovers,
            self.source_first,
            self.source_late,
            self.silences
        )
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            claims: a.claims + b.claims,
            commits: a.commits + b.commits,
            takeovers: a.takeovers + b.takeovers,
            source_first: a.source_first + b.source_first,
            source_late: a.source_late + b.source_late,
            silences: a.silences + b.silences,
        })
    }
}
