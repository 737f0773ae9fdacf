//! Objects in this process's memory: for tests and trials. Nothing survives the process.
//!
//! Every operation is one critical section, so all are linearizable.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Call, Entry, ErrorKind, Key, LIST_PAGE_KEYS_MAX, Meta, Object, Operation, Page, Prefix, Result,
    Store, StoreError, Version,
};

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    name: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<Key, Held>,
    writes: u64,
}

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    version: u64,
    modified: SystemTime,
}

static NAMED: LazyLock<Mutex<HashMap<String, Memory>>> = LazyLock::new(Mutex::default);

impl Memory {
    /// A new store that only its clones share.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The store of this name in this process; empty when first asked for.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Self {
            name: name.to_owned(),
            inner: Arc::default(),
        };
        named.entry(name.to_owned()).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the map whole, so a panic elsewhere spoils nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, key: &Key, bytes: Bytes) -> Version {
        self.writes += 1;
        let held = Held {
            bytes,
            version: self.writes,
            modified: SystemTime::now(),
        };
        let version = held.version();
        self.objects.insert(key.clone(), held);
        version
    }

    fn find(&self, operation: Operation, key: &Key) -> Result<&Held> {
        let absent = || StoreError::new(ErrorKind::NotFound, operation, key, "no such object");
        self.objects.get(key).ok_or_else(absent)
    }
}

impl Held {
    fn version(&self) -> Version {
        Version::new(&self.version.to_string())
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

#[async_trait]
impl Store for Memory {
    async fn put(&self, key: &Key, body: Bytes, _: Call) -> Result<()> {
        self.lock().write(key, body);
        Ok(())
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, _: Call) -> Result<Version> {
        let mut inner = self.lock();
        if inner.objects.contains_key(key) {
            let (kind, operation) = (ErrorKind::AlreadyExists, Operation::PutIfAbsent);
            return Err(StoreError::new(kind, operation, key, "the object exists"));
        }
        Ok(inner.write(key, body))
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        version: &Version,
        _: Call,
    ) -> Result<Version> {
        let mut inner = self.lock();
        let found = inner.objects.get(key).map(Held::version);
        if found.as_ref() == Some(version) {
            return Ok(inner.write(key, body));
        }
        let found = found.map_or_else(
            || "the object is gone".to_owned(),
            |found| {
                format!(
                    "expected version {}, found {}",
                    version.as_str(),
                    found.as_str()
                )
            },
        );
        Err(StoreError::new(
            ErrorKind::Conflict,
            Operation::PutIfMatch,
            key,
            found,
        ))
    }

    async fn get(&self, key: &Key, max_bytes: u64, _: Call) -> Result<Object> {
        let inner = self.lock();
        let held = inner.find(Operation::Get, key)?;
        if held.size() > max_bytes {
            return Err(StoreError::too_large(key, held.size(), max_bytes));
        }
        Ok(Object {
            bytes: held.bytes.clone(),
            version: held.version(),
        })
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, _: Call) -> Result<Bytes> {
        let inner = self.lock();
        let held = inner.find(Operation::GetRange, key)?;
        let range = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            (end <= held.bytes.len()).then_some(start..end)
        };
        match range() {
            Some(range) => Ok(held.bytes.slice(range)),
            None => Err(StoreError::out_of_range(
                key,
                offset,
                len,
                Some(held.size()),
            )),
        }
    }

    async fn head(&self, key: &Key, _: Call) -> Result<Meta> {
        let inner = self.lock();
        let held = inner.find(Operation::Head, key)?;
        Ok(Meta {
            size: held.size(),
            version: held.version(),
        })
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, _: Call) -> Result<Page> {
        let inner = self.lock();
        let start = match after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix.as_str()),
        };
        let entries: Vec<_> = inner
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.is_under(prefix))
            .take(LIST_PAGE_KEYS_MAX + 1)
            .map(|(key, held)| Entry {
                key: key.clone(),
                size: held.size(),
                modified: held.modified,
            })
            .collect();
        Ok(Page::of(entries))
    }

    async fn delete(&self, key: &Key, _: Call) -> Result<()> {
        self.lock().objects.remove(key);
        Ok(())
    }

    fn describe(&self) -> String {
        format!("memory:{}", self.name)
    }
}
