//! Object stores behind one trait.
//!
//! A [`Store`] holds named byte strings ([`Key`] → [`Bytes`]). Everything Lifeboat keeps outside of a
//! machine goes through it: packs and manifests, which never change once written, and heads, which
//! change only by compare-and-set.
//!
//! # What every store guarantees
//!
//! 1. An object appears whole or not at all. A reader never sees part of a write, a crash of the
//!    writer leaves the old object or the new one.
//! 2. When a write returned `Ok`, the object survives a crash of this machine, and a read that
//!    begins later, on any machine, sees it or a later one.
//! 3. [`Store::put_if_absent`] and [`Store::put_if_match`] decide atomically among all writers on
//!    all machines. Not every server can do this: [`probe`] finds out at start, in a way that a
//!    server that ignores conditions cannot pass.
//! 4. A read answers with exactly the bytes asked for, or an error; never with fewer. Whether they
//!    are the *right* bytes is for the format to prove (they are authenticated there).
//!
//! # What a caller must keep to
//!
//! - [`Store::put`] is for objects whose bytes are a function of their key (packs). An attempt that
//!   was given up may still land later, and attempts may be doubled to cut the slow tail.
//! - No two conditional writes of one key have the same bytes (each carries an id or a counter).
//!   This is how a write whose answer was lost is recognised, and why version stamps made from
//!   content (S3 without versioning, files) cannot be fooled by a value that returns.
//! - A key is never the folder of another: with `a/b` there is no `a/b/c`.
//!
//! # Failure
//!
//! Each failure is a [`StoreError`] with an [`ErrorKind`]. A conditional write that may or may not
//! have happened is [`ErrorKind::Unknown`], never a success and never a plain failure. The stores
//! themselves try once; [`retry::Retrying`], which [`open`] puts around them, repeats what can be
//! repeated until the [`Call`]'s deadline and resolves lost answers by reading back.

#![forbid(unsafe_code)]

mod call;
mod error;
pub mod faulty;
pub mod file;
pub mod gcs;
mod http_fault;
mod key;
pub mod memory;
pub mod null;
mod open;
pub mod probe;
pub mod retry;
pub mod s3;

use std::{fmt::Debug, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

pub use call::Call;
pub use error::{ErrorKind, Operation, StoreError};
pub use key::{KEY_BYTES_MAX, Key, KeyError, Prefix, SEGMENT_BYTES_MAX};
pub use open::{OpenError, Options, open, open_retrying};

/// Most keys in one answer of [`Store::list`].
pub const LIST_PAGE_KEYS_MAX: usize = 1000;

/// Result of a store's operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// One object store, or a part of one under a prefix. See the crate's text for the guarantees.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Writes an object, whether or not it exists. For objects whose bytes follow from their key.
    async fn put(&self, key: &Key, body: Bytes, call: Call) -> Result<()>;

    /// Like [`Store::put`], of the bytes of `pieces` one after the other. A store that can, writes them
    /// where they are ([`Store::takes_pieces`]); others copy them into one.
    async fn put_pieces(&self, key: &Key, pieces: Vec<Bytes>, call: Call) -> Result<()> {
        self.put(key, joined(pieces), call).await
    }

    /// Whether [`Store::put_pieces`] copies nothing.
    fn takes_pieces(&self) -> bool {
        false
    }

    /// Writes an object that must not exist yet.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if it does; [`ErrorKind::Unknown`] if the answer was lost.
    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version>;

    /// Replaces the object if it is still `version`.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it is another version or gone; [`ErrorKind::Unknown`] if the
    /// answer was lost.
    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        version: &Version,
        call: Call,
    ) -> Result<Version>;

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::TooLarge`] if it is larger than `max_bytes` (at most
    /// `max_bytes` are held in memory on the way).
    async fn get(&self, key: &Key, max_bytes: u64, call: Call) -> Result<Object>;

    /// Reads `len` bytes from `offset` on. `len` 0 answers with no bytes and need not look.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::OutOfRange`] if the object ends before the range does.
    async fn get_range(&self, key: &Key, offset: u64, len: u64, call: Call) -> Result<Bytes>;

    /// Size and version of an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    async fn head(&self, key: &Key, call: Call) -> Result<Meta>;

    /// Size of an object, in bytes: all that is to be known of one that never changes. Where versions
    /// are costly, this is not.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    async fn size(&self, key: &Key, call: Call) -> Result<u64> {
        Ok(self.head(key, call).await?.size)
    }

    /// The keys under `prefix` that sort after `after`, in byte order, at most
    /// [`LIST_PAGE_KEYS_MAX`]. Continue with [`Page::next`].
    async fn list(&self, prefix: &Prefix, after: Option<&Key>, call: Call) -> Result<Page>;

    /// Deletes an object. One that does not exist counts as deleted.
    async fn delete(&self, key: &Key, call: Call) -> Result<()>;

    /// The store's URL, without credentials, for logs and errors.
    fn describe(&self) -> String;
}

/// The bytes of `pieces` in one.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.remove(0),
        _ => pieces.concat().into(),
    }
}

/// Stamp of one state of an object: an entity tag, a generation, a content hash. Only for giving
/// back to the store it came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(std::sync::Arc<str>);

impl Version {
    /// A version from a store's own stamp.
    #[must_use]
    pub fn new(stamp: &str) -> Self {
        Self(stamp.into())
    }

    /// The store's own stamp.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// The state they are of.
    pub version: Version,
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Size, in bytes.
    pub size: u64,
    /// Its state.
    pub version: Version,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Size, in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// Part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, in byte order of their keys. Objects whose names are not keys are left out.
    pub entries: Vec<Entry>,
    /// Where the next page begins; none if this was the last. (A page can be empty and not the last.)
    pub next: Option<Key>,
}

impl Page {
    /// A page of sorted `entries`, of which there is one more than fits if there is a next page.
    fn of(mut entries: Vec<Entry>) -> Self {
        let more = entries.len() > LIST_PAGE_KEYS_MAX;
        entries.truncate(LIST_PAGE_KEYS_MAX);
        let next = entries
            .last()
            .filter(|_| more)
            .map(|entry| entry.key.clone());
        Self { entries, next }
    }
}
