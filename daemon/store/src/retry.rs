//! A store that tries again, until the caller's deadline.
//!
//! - Whatever can be repeated without harm (everything but conditional writes) is repeated while it
//!   fails for reasons that pass, with full jitter between attempts, and *hedged*: when an attempt
//!   takes longer than almost all of the last ones did, a second one starts beside it and the first
//!   success counts. This cuts the slow tail, and it is what saves an upload from a hanging
//!   connection shortly before a deadline. Hedges are bounded to a share of all operations.
//! - A conditional write is never blindly repeated. If its answer was lost, the object is read back:
//!   the bytes that were to be written are success, anything else is decided by what is there, and
//!   only an object that is still in the expected state is written again.
//! - An attempt is given up after a time that follows from its size and from how long such attempts
//!   took lately; the next one gets more. What is given up may still happen: see the crate's text.
//!
//! On giving up the error is the last one, as [`ErrorKind::Deadline`] if time ran out, or
//! [`ErrorKind::Unknown`] if a conditional write may have happened. Wrong or corrupted bytes are
//! passed on: they are found where bytes are authenticated.

mod conditional;
mod pace;
mod turns;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    Call, ErrorKind, Key, Meta, Object, Operation, Page, Prefix, Result, Store, StoreError, Version,
};
use pace::{Pace, Shape};
use turns::Turns;
pub use turns::{ATTEMPTS_MAX, PAUSE_FIRST, PAUSE_MAX};

/// Time for an operation whose caller has no deadline.
pub const BUDGET: Duration = Duration::from_secs(60);

/// Size that an object of unknown size is taken for, when judging how long reading it may take.
const UNKNOWN_SIZE: u64 = 16 << 20;

/// A store with retries around another one. See the module's text.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Store>,
    pace: Pace,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    retries: AtomicU64,
    timeouts: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
}

/// What the retries did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Attempts after the first ones of their operations.
    pub retries: u64,
    /// Attempts that were given up because they took too long.
    pub timeouts: u64,
    /// Second attempts beside slow ones.
    pub hedges: u64,
    /// Hedges that succeeded before what they were beside.
    pub hedges_won: u64,
}

/// A future of the inner store.
type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl Retrying {
    /// Puts retries around a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            pace: Pace::default(),
            counts: Counts::default(),
        }
    }

    /// What the retries did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            retries: read(&self.counts.retries),
            timeouts: read(&self.counts.timeouts),
            hedges: read(&self.counts.hedges),
            hedges_won: read(&self.counts.hedges_won),
        }
    }

    /// Does what `make` begins, until it succeeds, fails for good, or `call` is over.
    async fn repeat<'a, T: Send>(
        &self,
        shape: Shape,
        subject: &(dyn std::fmt::Display + Sync),
        call: Call,
        make: impl Fn(Call) -> Attempt<'a, T> + Send + Sync,
    ) -> Result<T> {
        let mut turns = Turns::new(shape, call);
        loop {
            let Some(call) = turns.next(&self.pace) else {
                return Err(turns.give_up(subject));
            };
            let error = match self.attempt(shape, subject, call, &make).await {
                Ok(value) => return Ok(value),
                Err(error) if !error.is_transient() => return Err(turns.last_words(error)),
                Err(error) => error,
            };
            self.failed(&mut turns, error).await;
        }
    }

    /// Notes a failure that may pass, and pauses.
    async fn failed(&self, turns: &mut Turns, error: StoreError) {
        let pause = turns.pause();
        tracing::debug!(%error, attempt = turns.attempts, ?pause, "the store will be tried again");
        self.counts.retries.fetch_add(1, Ordering::Relaxed);
        if matches!(error.kind(), ErrorKind::Deadline | ErrorKind::Unknown) {
            self.counts.timeouts.fetch_add(1, Ordering::Relaxed);
            turns.timeouts += 1;
        }
        turns.remember(error);
        sleep(pause).await;
    }

    /// One attempt, hedged.
    async fn attempt<'a, T: Send>(
        &self,
        shape: Shape,
        subject: &(dyn std::fmt::Display + Sync),
        call: Call,
        make: &(impl Fn(Call) -> Attempt<'a, T> + Send + Sync),
    ) -> Result<T> {
        let started = Instant::now();
        let end = call.deadline.unwrap_or(started + BUDGET);
        let hedge_at = end.min(started + self.pace.hedge_after(shape, end - started));
        let over = || {
            let found = format!("no answer within {:?}", started.elapsed());
            StoreError::new(ErrorKind::Deadline, shape.operation, subject, found)
        };
        let mut first = make(call);
        let alone_until = if hedge_at < end {
            match timeout_at(hedge_at, &mut first).await {
                Ok(done) => return self.noted(shape, started, done),
                Err(_) if self.pace.may_hedge() => None,
                Err(_) => Some(end),
            }
        } else {
            Some(end)
        };
        if let Some(end) = alone_until {
            let done = timeout_at(end, first).await.unwrap_or_else(|_| Err(over()));
            return self.noted(shape, started, done);
        }
        self.counts.hedges.fetch_add(1, Ordering::Relaxed);
        let hedged = Instant::now();
        let Ok((done, second)) = timeout_at(end, race(first, make(call))).await else {
            return Err(over());
        };
        if second && done.is_ok() {
            self.counts.hedges_won.fetch_add(1, Ordering::Relaxed);
            self.pace.took(shape, hedged.elapsed());
        }
        // The first one took at least this long, whoever was faster.
        self.noted(shape, started, done)
    }

    fn noted<T>(&self, shape: Shape, started: Instant, done: Result<T>) -> Result<T> {
        if done.is_ok() {
            self.pace.took(shape, started.elapsed());
        }
        done
    }
}

/// The first of two attempts that settles the matter, and whether it was the second.
async fn race<T>(first: Attempt<'_, T>, second: Attempt<'_, T>) -> (Result<T>, bool) {
    match select(first, second).await {
        Either::Left((Err(error), other)) if error.is_transient() => (other.await, true),
        Either::Right((Err(error), other)) if error.is_transient() => (other.await, false),
        Either::Left((done, _)) => (done, false),
        Either::Right((done, _)) => (done, true),
    }
}

#[async_trait]
impl Store for Retrying {
    async fn put(&self, key: &Key, body: Bytes, call: Call) -> Result<()> {
        let shape = Shape::new(Operation::Put, body.len() as u64);
        self.repeat(shape, key, call, |call| {
            self.inner.put(key, body.clone(), call)
        })
        .await
    }

    async fn put_pieces(&self, key: &Key, pieces: Vec<Bytes>, call: Call) -> Result<()> {
        if !self.inner.takes_pieces() {
            // Once, and not for each attempt.
            return self.put(key, crate::joined(pieces), call).await;
        }
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.repeat(Shape::new(Operation::Put, bytes), key, call, |call| {
            self.inner.put_pieces(key, pieces.clone(), call)
        })
        .await
    }

    fn takes_pieces(&self) -> bool {
        self.inner.takes_pieces()
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        self.conditional(key, body, None, call).await
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        version: &Version,
        call: Call,
    ) -> Result<Version> {
        self.conditional(key, body, Some(version), call).await
    }

    async fn get(&self, key: &Key, max_bytes: u64, call: Call) -> Result<Object> {
        let shape = Shape::new(Operation::Get, max_bytes.min(UNKNOWN_SIZE));
        self.repeat(shape, key, call, |call| {
            self.inner.get(key, max_bytes, call)
        })
        .await
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, call: Call) -> Result<Bytes> {
        let shape = Shape::new(Operation::GetRange, len);
        let read = |call| -> Attempt<'_, Bytes> {
            Box::pin(async move {
                let bytes = self.inner.get_range(key, offset, len, call).await?;
                if bytes.len() as u64 == len {
                    return Ok(bytes);
                }
                let found = format!("asked for {len} bytes at {offset}, got {}", bytes.len());
                Err(StoreError::new(
                    ErrorKind::Transient,
                    Operation::GetRange,
                    key,
                    found,
                ))
            })
        };
        self.repeat(shape, key, call, read).await
    }

    async fn head(&self, key: &Key, call: Call) -> Result<Meta> {
        let shape = Shape::new(Operation::Head, 0);
        self.repeat(shape, key, call, |call| self.inner.head(key, call))
            .await
    }

    async fn size(&self, key: &Key, call: Call) -> Result<u64> {
        let shape = Shape::new(Operation::Head, 0);
        self.repeat(shape, key, call, |call| self.inner.size(key, call))
            .await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, call: Call) -> Result<Page> {
        let shape = Shape::new(Operation::List, 0);
        self.repeat(shape, prefix, call, |call| {
            self.inner.list(prefix, after, call)
        })
        .await
    }

    async fn delete(&self, key: &Key, call: Call) -> Result<()> {
        let shape = Shape::new(Operation::Delete, 0);
        self.repeat(shape, key, call, |call| self.inner.delete(key, call))
            .await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
