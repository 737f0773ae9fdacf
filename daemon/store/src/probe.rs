//! What a store can really do, found out by doing it.
//!
//! Some servers accept the conditions of writes and ignore them (Google's S3 door, Garage, some
//! proxies). A store that does must not be shared: two machines would both believe to own a
//! workload. [`probe`] cannot be fooled by that, since it checks refusals by their effect.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{Call, ErrorKind, Key, Operation, Prefix, Result, Store, StoreError, Version};

/// Largest difference between the store's clock and ours that passes: ages of objects decide what
/// may be collected.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// Time for the whole probe when the caller has no deadline.
pub const PROBE_BUDGET: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the store cannot do. Empty for a good store.
    pub shortcomings: Vec<Shortcoming>,
    /// Time that the smallest request took.
    pub round_trip: Duration,
}

/// Something that the store does not do as it must. `Display` says what it means and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcoming {
    /// An object can be created where one is.
    CreatesOverExisting,
    /// An object that changed, or is gone, can be replaced.
    ReplacesChanged,
    /// Conditional writes are refused, or refused wrongly.
    NoConditions,
    /// A range of an object is not what it is.
    WrongRanges,
    /// An object that was written is not listed.
    ListsLate,
    /// An object that was deleted is still there.
    KeepsDeleted,
    /// The store's clock and this machine's differ by so much.
    Clock {
        /// Seconds.
        seconds: u64,
    },
}

impl Report {
    /// Whether several machines can use the store: it decides between writers.
    #[must_use]
    pub fn is_shareable(&self) -> bool {
        use Shortcoming::{CreatesOverExisting, NoConditions, ReplacesChanged};
        let unsafe_ = [CreatesOverExisting, ReplacesChanged, NoConditions];
        self.is_usable()
            && !self
                .shortcomings
                .iter()
                .any(|found| unsafe_.contains(found))
    }

    /// Whether one machine can: what is written can be read.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.shortcomings.contains(&Shortcoming::WrongRanges)
    }
}

impl fmt::Display for Shortcoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = "use a store with conditional writes (AWS S3, Ceph, MinIO; Google Cloud \
                      Storage by gs://, not by its S3 interface), or declare the store unshared";
        match self {
            Self::CreatesOverExisting => {
                write!(
                    f,
                    "the store ignores If-None-Match: it overwrites what exists; {remedy}"
                )
            }
            Self::ReplacesChanged => {
                write!(
                    f,
                    "the store ignores If-Match: it overwrites what changed; {remedy}"
                )
            }
            Self::NoConditions => {
                write!(f, "the store has no working conditional writes; {remedy}")
            }
            Self::WrongRanges => f.write_str(
                "the store answers ranged reads wrongly; look for a proxy or cache in between",
            ),
            Self::ListsLate => f.write_str(
                "the store does not list at once what was written; collection of garbage must wait \
                 longer",
            ),
            Self::KeepsDeleted => f.write_str(
                "the store still has what was deleted; look for a cache in between, or for \
                 retention rules of the bucket",
            ),
            Self::Clock { seconds } => write!(
                f,
                "the store's clock and this machine's differ by {seconds} s; synchronise this \
                 machine's clock (chrony, systemd-timesyncd)"
            ),
        }
    }
}

/// Tries everything that Lifeboat needs, on an object of its own below `probe/`, and deletes it.
///
/// # Errors
/// If objects cannot be written, read or deleted at all: then the store cannot be used.
pub async fn probe(store: &dyn Store, call: Call) -> Result<Report> {
    let call = if call.deadline.is_some() {
        call
    } else {
        call.at_most(PROBE_BUDGET)
    };
    let name = |what: &str| {
        let text = format!("probe/{}-{what}", uuid::Uuid::new_v4().simple());
        Key::new(text).map_err(|error| {
            let (kind, operation) = (ErrorKind::Invalid, Operation::Put);
            StoreError::new(kind, operation, what, "the probe has no key").because(error)
        })
    };
    let run = Run {
        store,
        call,
        key: name("object")?,
        absent: name("absent")?,
    };
    let found = run.all().await;
    // Whatever was found: nothing shall stay.
    let deleted = run.delete().await;
    let mut report = found?;
    report.shortcomings.extend(deleted?);
    Ok(report)
}

struct Run<'a> {
    store: &'a dyn Store,
    call: Call,
    key: Key,
    absent: Key,
}

/// Contents that the object has one after another.
const FIRST: Bytes = Bytes::from_static(b"lifeboat probe: first");
const SECOND: Bytes = Bytes::from_static(b"lifeboat probe: second");
const WRONG: Bytes = Bytes::from_static(b"lifeboat probe: must be refused");

/// Larger than each of them.
const MAX_BYTES: u64 = 1024;

impl Run<'_> {
    async fn all(&self) -> Result<Report> {
        let mut shortcomings = Vec::new();
        match self.store.put_if_absent(&self.key, FIRST, self.call).await {
            Ok(first) => shortcomings.extend(self.conditions(&first).await?),
            Err(error) if lacks_conditions(&error) => shortcomings.push(Shortcoming::NoConditions),
            Err(error) => return Err(error),
        }
        // Known content again, whatever the conditions did.
        self.store.put(&self.key, FIRST, self.call).await?;
        shortcomings.extend(self.reading().await?);
        let began = Instant::now();
        self.store.head(&self.key, self.call).await?;
        Ok(Report {
            shortcomings,
            round_trip: began.elapsed(),
        })
    }

    /// Whether refusals are refusals: the object, created as [`FIRST`], is not what they would write.
    async fn conditions(&self, first: &Version) -> Result<Vec<Shortcoming>> {
        let mut found = Vec::new();
        let again = self.store.put_if_absent(&self.key, WRONG, self.call).await;
        if !self
            .refused(again, ErrorKind::AlreadyExists, &FIRST)
            .await?
        {
            found.push(Shortcoming::CreatesOverExisting);
            self.store.put(&self.key, FIRST, self.call).await?;
        }
        let current = self
            .store
            .get(&self.key, MAX_BYTES, self.call)
            .await?
            .version;
        match self
            .store
            .put_if_match(&self.key, SECOND, &current, self.call)
            .await
        {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Conflict || lacks_conditions(&error) => {
                found.push(Shortcoming::NoConditions);
                return Ok(found);
            }
            Err(error) => return Err(error),
        }
        let stale = self
            .store
            .put_if_match(&self.key, WRONG, first, self.call)
            .await;
        let stale_refused = self.refused(stale, ErrorKind::Conflict, &SECOND).await?;
        let absent = self
            .store
            .put_if_match(&self.absent, WRONG, first, self.call)
            .await;
        let absent_refused = match absent {
            Ok(_) => false,
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => true,
        };
        if !(stale_refused && absent_refused) {
            found.push(Shortcoming::ReplacesChanged);
        }
        Ok(found)
    }

    /// Whether a write was refused as `kind`, and the object still is `content`.
    async fn refused(
        &self,
        outcome: Result<Version>,
        kind: ErrorKind,
        content: &Bytes,
    ) -> Result<bool> {
        match outcome {
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == kind => {}
            Err(error) => return Err(error),
        }
        let object = self.store.get(&self.key, MAX_BYTES, self.call).await?;
        Ok(object.bytes == *content)
    }

    /// Ranges, listing, clocks.
    async fn reading(&self) -> Result<Vec<Shortcoming>> {
        let mut found = Vec::new();
        let (offset, len) = (3, 7);
        let range = self
            .store
            .get_range(&self.key, offset, len, self.call)
            .await;
        match range {
            Ok(bytes) if bytes == FIRST.slice(3..10) => {}
            Err(error) if error.is_transient() || error.kind() == ErrorKind::Denied => {
                return Err(error);
            }
            _ => found.push(Shortcoming::WrongRanges),
        }
        let prefix = Prefix::new("probe").unwrap_or_default();
        let mut after = None;
        let entry = loop {
            let page = self.store.list(&prefix, after.as_ref(), self.call).await?;
            let entry = page.entries.into_iter().find(|entry| entry.key == self.key);
            after = page.next;
            if entry.is_some() || after.is_none() {
                break entry;
            }
        };
        let Some(entry) = entry else {
            found.push(Shortcoming::ListsLate);
            return Ok(found);
        };
        let now = SystemTime::now();
        let skew = now
            .duration_since(entry.modified)
            .unwrap_or_else(|early| early.duration());
        if skew > CLOCK_SKEW_MAX {
            found.push(Shortcoming::Clock {
                seconds: skew.as_secs(),
            });
        }
        Ok(found)
    }

    async fn delete(&self) -> Result<Option<Shortcoming>> {
        self.store.delete(&self.absent, self.call).await?;
        self.store.delete(&self.key, self.call).await?;
        match self.store.head(&self.key, self.call).await {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(Some(Shortcoming::KeepsDeleted)),
        }
    }
}

/// A server that does not know conditional writes says so, or gives no stamps to compare.
fn lacks_conditions(error: &StoreError) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Invalid)
}
