//! What each source is doing, for `lifeboat status`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::notice::Source;

/// Longest text of a failure, in bytes.
const TEXT_BYTES_MAX: usize = 300;

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// Which one.
    pub source: Source,
    /// Where it looks.
    pub target: String,
    /// When it last answered as documented.
    pub succeeded_at: Option<SystemTime>,
    /// When it last did not, and why.
    pub failed: Option<(SystemTime, String)>,
}

impl SourceStatus {
    /// Whether the last attempt succeeded.
    #[must_use]
    pub fn works(&self) -> bool {
        match (&self.succeeded_at, &self.failed) {
            (Some(succeeded), Some((failed, _))) => succeeded >= failed,
            (succeeded, _) => succeeded.is_some(),
        }
    }
}

/// All sources that are watched. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Vec<SourceStatus>>>);

impl Board {
    /// What there is to see now.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn add(&self, source: Source, target: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(SourceStatus {
            source,
            target,
            succeeded_at: None,
            failed: None,
        });
    }

    /// Notes a success; tells whether it is the first, or the first after a failure.
    pub(crate) fn succeeded(&self, source: Source) -> bool {
        self.change(source, |one| {
            let is_news = !one.works();
            one.succeeded_at = Some(SystemTime::now());
            is_news
        })
    }

    /// Notes a failure; tells whether it is the first, or the first after a success.
    pub(crate) fn failed(&self, source: Source, mut why: String) -> bool {
        while why.len() > TEXT_BYTES_MAX {
            why.pop();
        }
        self.change(source, |one| {
            let is_news = one.works() || one.failed.is_none();
            one.failed = Some((SystemTime::now(), why));
            is_news
        })
    }

    fn change(&self, source: Source, change: impl FnOnce(&mut SourceStatus) -> bool) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut()
            .find(|one| one.source == source)
            .is_some_and(change)
    }
}
