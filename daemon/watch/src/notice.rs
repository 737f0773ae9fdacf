//! What can be said about the future of this machine.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

/// Longest key of an event, in bytes; longer ones are cut.
const KEY_BYTES_MAX: usize = 256;

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The metadata server of Google Compute Engine.
    Gce,
    /// The instance metadata service of EC2.
    Aws,
    /// Azure's Scheduled Events.
    Azure,
    /// The API server of Kubernetes.
    Kubernetes,
    /// systemd-logind.
    Logind,
    /// A signal to the daemon.
    Signal,
    /// A file in the state directory.
    File,
    /// A call.
    Call,
}

impl Source {
    /// A short name for logs, labels and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gce => "gce",
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Kubernetes => "kubernetes",
            Self::Logind => "logind",
            Self::Signal => "signal",
            Self::File => "file",
            Self::Call => "call",
        }
    }
}

impl Source {
    /// Whether it says a thing once and cannot say that it is over: that is so when its time is over.
    #[must_use]
    pub const fn says_once(self) -> bool {
        matches!(self, Self::File | Self::Call | Self::Signal)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What will happen. The order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nothing is decided yet, or what comes does not end programs: time to copy ahead.
    Early,
    /// The machine goes down for maintenance: what runs on it ends.
    Maintenance,
    /// The machine is being taken away.
    Preemption,
}

impl Kind {
    /// Whether programs end when it happens.
    #[must_use]
    pub const fn ends_programs(self) -> bool {
        !matches!(self, Self::Early)
    }
}

/// How sure it is. The order is that of certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// It often comes to nothing (a recommendation, a cordon).
    Hint,
    /// Somebody who should know says so, not the one who decides (a taint, a signal).
    Likely,
    /// The one who decides says so.
    Certain,
}

/// What will go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole machine.
    Machine,
    /// One pod of Kubernetes.
    Pod {
        /// Its UID, as the API server writes it.
        uid: String,
    },
}

/// What a source sees of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who sees it.
    pub source: Source,
    /// The source's own name of the event: two sightings with the same are about the same.
    pub key: String,
    /// What will go.
    pub scope: Scope,
    /// What will happen.
    pub kind: Kind,
    /// When at the earliest, on the monotonic clock; `None`: not said.
    pub deadline: Option<Instant>,
    /// How sure it is.
    pub confidence: Confidence,
    /// When the event began, by the source's clock, if it tells.
    pub began_at: Option<SystemTime>,
}

impl Sighting {
    /// A certain preemption of this machine without a deadline.
    #[must_use]
    pub fn new(source: Source, key: &str) -> Self {
        Self {
            source,
            key: key[..key.floor_char_boundary(KEY_BYTES_MAX)].to_owned(),
            scope: Scope::Machine,
            kind: Kind::Preemption,
            deadline: None,
            confidence: Confidence::Certain,
            began_at: None,
        }
    }

    /// The same as another kind.
    #[must_use]
    pub const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same, with a deadline `within` from now.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.deadline = Instant::now().checked_add(within);
        self
    }

    /// The same, less or more sure.
    #[must_use]
    pub const fn confidence(mut self, confidence: Confidence) -> Self {
        self.confidence = confidence;
        self
    }

    /// The same, with the time at which the event began.
    #[must_use]
    pub const fn began_at(mut self, at: Option<SystemTime>) -> Self {
        self.began_at = at;
        self
    }

    /// The same about another scope.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }
}

/// All that is known about one scope: the sightings of all sources together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Counts the notices of this daemon, from 1; changes of one notice keep it.
    pub number: u64,
    /// What will go.
    pub scope: Scope,
    /// The most urgent of what is said.
    pub kind: Kind,
    /// The earliest deadline that is said; `None`: nobody says one.
    pub deadline: Option<Instant>,
    /// The highest confidence.
    pub confidence: Confidence,
    /// Who says so, in the order in which they said it.
    pub sources: Vec<Source>,
    /// How often it was said. Somebody who says it anew, as a file that is written twice, means what is
    /// here now; a value that a server goes on showing is said once.
    pub tellings: u64,
}

impl Notice {
    /// The first of the sources.
    #[must_use]
    pub fn source(&self) -> Source {
        self.sources.first().copied().unwrap_or(Source::Call)
    }

    /// Time left, if there is a deadline.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// What has become of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new one.
    Given(Notice),
    /// More, or less, is known of one that was given.
    Changed(Notice),
    /// Nobody says so any more. What can be stopped should be.
    Withdrawn(Notice),
}

impl Change {
    /// The notice as it is now, or, withdrawn, as it last was.
    #[must_use]
    pub const fn notice(&self) -> &Notice {
        match self {
            Self::Given(notice) | Self::Changed(notice) | Self::Withdrawn(notice) => notice,
        }
    }
}
