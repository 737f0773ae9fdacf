//! A store that fails as told, for tests of the whole product.
//!
//! [`Faulty`] wraps any store and disturbs its operations by a [`Plan`]: seeded, so that a failure
//! that was seen once can be seen again. Counting is per rule: `@3` of a rule for `put` is the third
//! put, whatever else happens in between.
//!
//! A plan can be part of a store's URL (`faulty+file:///dir?plan=put.fail:transient@3`), so that a
//! whole daemon can be run against a failing store. [`crate::open`] accepts that only if
//! [`crate::Options::allow_faults`] is set or the environment has [`ALLOW_VARIABLE`]`=1`.

mod plan;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    Call, ErrorKind, Key, Meta, Object, Operation, Page, Prefix, Result, Store, StoreError, Version,
};
pub use plan::{Fault, On, Plan, PlanError, Rule, When};

/// Must be `1` for URLs that begin with `faulty+`.
pub const ALLOW_VARIABLE: &str = "LIFEBOAT_ALLOW_FAULTS";

/// Fewest bytes that a throttled operation sends at once.
const THROTTLE_PART: u64 = 64 << 10;

/// Most parts that are sent in a second: timers are no finer than a millisecond.
const THROTTLE_PARTS_PER_SECOND: u64 = 50;

/// A store with faults around another one.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    began: Instant,
    state: Mutex<State>,
    released: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Counted>,
    random: StdRng,
    calls: Vec<Operation>,
}

/// A rule and its past.
#[derive(Debug)]
struct Counted {
    rule: Rule,
    seen: u64,
    /// When a throttled line is free again.
    free: Instant,
}

/// What befalls one operation.
#[derive(Debug, Default)]
struct Fate {
    until: Option<Instant>,
    hang: bool,
    fail: Option<ErrorKind>,
    lose: bool,
    corrupt: Option<u64>,
    truncate: Option<u64>,
    /// Indices of rules that throttle.
    throttles: Vec<usize>,
}

impl Faulty {
    /// Puts the plan's faults around a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, plan: Plan) -> Self {
        let began = Instant::now();
        let counted = |rule| Counted {
            rule,
            seen: 0,
            free: began,
        };
        let state = State {
            rules: plan.rules.into_iter().map(counted).collect(),
            random: StdRng::seed_from_u64(plan.seed),
            calls: Vec::new(),
        };
        Self {
            inner,
            began,
            state: Mutex::new(state),
            released: watch::Sender::new(false),
        }
    }

    /// Replaces the rules; counting starts anew.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let counted = |rule| Counted {
            rule,
            seen: 0,
            free: Instant::now(),
        };
        self.lock().rules = rules.into_iter().map(counted).collect();
    }

    /// Lets everything that hangs go on, now and later.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// How many of these operations were begun.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> usize {
        self.lock()
            .calls
            .iter()
            .filter(|seen| **seen == operation)
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the plan has for this operation. `sent` bytes are throttled before it.
    fn fate(&self, operation: Operation) -> Fate {
        let (now, mut fate) = (Instant::now(), Fate::default());
        let mut state = self.lock();
        let State {
            rules,
            random,
            calls,
        } = &mut *state;
        calls.push(operation);
        for (at, counted) in rules.iter_mut().enumerate() {
            if !counted.rule.on.is(operation) {
                continue;
            }
            counted.seen += 1;
            let hit = match &counted.rule.when {
                When::Always => true,
                When::Count(range) => range.contains(&counted.seen),
                When::Odds(odds) => random.random_bool(odds.clamp(0.0, 1.0)),
                When::During(times) => times.contains(&(now - self.began)),
            };
            if !hit {
                continue;
            }
            match counted.rule.fault {
                Fault::Fail(kind) => fate.fail = Some(kind),
                Fault::Lose => fate.lose = true,
                Fault::Delay(delay) => {
                    fate.until = Some(fate.until.unwrap_or(now) + delay);
                }
                Fault::Hang => fate.hang = true,
                Fault::Truncate(bytes) => fate.truncate = Some(bytes),
                Fault::Corrupt => fate.corrupt = Some(random.random()),
                Fault::Throttle(_) => fate.throttles.push(at),
            }
        }
        fate
    }

    /// Waits as the plan says, and fails before anything was done if it says so.
    async fn before(
        &self,
        fate: &Fate,
        operation: Operation,
        subject: &(dyn std::fmt::Display + Sync),
        sent: usize,
    ) -> Result<()> {
        if let Some(until) = fate.until {
            sleep_until(until).await;
        }
        self.throttle(fate, sent).await;
        if fate.hang {
            let mut released = self.released.subscribe();
            // The sender lives as long as the store, so this ends by a release only.
            drop(released.wait_for(|released| *released).await);
        }
        match fate.fail {
            Some(kind) => Err(StoreError::new(
                kind,
                operation,
                subject,
                "as the plan of faults says",
            )),
            None => Ok(()),
        }
    }

    /// Holds bytes back to a throttled rate, which all operations of a rule share.
    async fn throttle(&self, fate: &Fate, bytes: usize) {
        for at in &fate.throttles {
            let mut left = bytes as u64;
            while left > 0 {
                let Some((part, free)) = self.reserve(*at, left) else {
                    break;
                };
                left -= part;
                sleep_until(free).await;
            }
        }
    }

    /// The next part of `bytes` that rule `at` lets pass, and when it will have.
    fn reserve(&self, at: usize, bytes: u64) -> Option<(u64, Instant)> {
        let mut state = self.lock();
        let counted = state.rules.get_mut(at)?;
        let Fault::Throttle(rate) = counted.rule.fault else {
            return None;
        };
        let part = bytes.min(THROTTLE_PART.max(rate / THROTTLE_PARTS_PER_SECOND));
        let micros = part.saturating_mul(1_000_000) / rate.max(1);
        counted.free = counted.free.max(Instant::now()) + Duration::from_micros(micros);
        Some((part, counted.free))
    }
}

/// The end of an operation whose answer may get lost.
fn after<T>(
    fate: &Fate,
    operation: Operation,
    subject: impl std::fmt::Display,
    done: Result<T>,
) -> Result<T> {
    if !fate.lose {
        return done;
    }
    let conditional = matches!(operation, Operation::PutIfAbsent | Operation::PutIfMatch);
    let kind = if conditional {
        ErrorKind::Unknown
    } else {
        ErrorKind::Transient
    };
    Err(StoreError::new(
        kind,
        operation,
        subject,
        "the answer got lost, as the plan of faults says",
    ))
}

/// The bytes with one bit turned, or fewer of them.
fn spoil(fate: &Fate, bytes: Bytes) -> Bytes {
    let mut bytes = match fate.truncate.and_then(|len| usize::try_from(len).ok()) {
        Some(len) if len < bytes.len() => bytes.slice(..len),
        _ => bytes,
    };
    if let (Some(random), false) = (fate.corrupt, bytes.is_empty()) {
        let mut spoiled = bytes.to_vec();
        let bits = spoiled.len() as u64 * 8;
        let bit = random % bits;
        if let Some(byte) = usize::try_from(bit / 8)
            .ok()
            .and_then(|at| spoiled.get_mut(at))
        {
            *byte ^= 1 << (bit % 8);
        }
        bytes = spoiled.into();
    }
    bytes
}

#[async_trait]
impl Store for Faulty {
    async fn put(&self, key: &Key, body: Bytes, call: Call) -> Result<()> {
        let operation = Operation::Put;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, body.len()).await?;
        let done = self.inner.put(key, spoil(&fate, body), call).await;
        after(&fate, operation, key, done)
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        let operation = Operation::PutIfAbsent;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, body.len()).await?;
        let done = self
            .inner
            .put_if_absent(key, spoil(&fate, body), call)
            .await;
        after(&fate, operation, key, done)
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        version: &Version,
        call: Call,
    ) -> Result<Version> {
        let operation = Operation::PutIfMatch;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, body.len()).await?;
        let done = self
            .inner
            .put_if_match(key, spoil(&fate, body), version, call)
            .await;
        after(&fate, operation, key, done)
    }

    async fn get(&self, key: &Key, max_bytes: u64, call: Call) -> Result<Object> {
        let operation = Operation::Get;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, 0).await?;
        let Object { bytes, version } = after(
            &fate,
            operation,
            key,
            self.inner.get(key, max_bytes, call).await,
        )?;
        self.throttle(&fate, bytes.len()).await;
        Ok(Object {
            bytes: spoil(&fate, bytes),
            version,
        })
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, call: Call) -> Result<Bytes> {
        let operation = Operation::GetRange;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, 0).await?;
        let done = self.inner.get_range(key, offset, len, call).await;
        let bytes = after(&fate, operation, key, done)?;
        self.throttle(&fate, bytes.len()).await;
        Ok(spoil(&fate, bytes))
    }

    async fn head(&self, key: &Key, call: Call) -> Result<Meta> {
        let operation = Operation::Head;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, 0).await?;
        after(&fate, operation, key, self.inner.head(key, call).await)
    }

    async fn size(&self, key: &Key, call: Call) -> Result<u64> {
        let operation = Operation::Head;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, 0).await?;
        after(&fate, operation, key, self.inner.size(key, call).await)
    }

    async fn list(&self, prefix: &Prefix, after_key: Option<&Key>, call: Call) -> Result<Page> {
        let operation = Operation::List;
        let fate = self.fate(operation);
        self.before(&fate, operation, prefix, 0).await?;
        after(
            &fate,
            operation,
            prefix,
            self.inner.list(prefix, after_key, call).await,
        )
    }

    async fn delete(&self, key: &Key, call: Call) -> Result<()> {
        let operation = Operation::Delete;
        let fate = self.fate(operation);
        self.before(&fate, operation, key, 0).await?;
        after(&fate, operation, key, self.inner.delete(key, call).await)
    }

    fn describe(&self) -> String {
        format!("faulty+{}", self.inner.describe())
    }
}
