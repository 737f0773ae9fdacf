//! S3 and its compatible servers.
//!
//! One request for each operation, tried once: repeating is [`crate::retry`]'s. Packs go as
//! in-memory bodies by single PUT, so that their checksum is a header and not a trailer (streamed
//! bodies with trailers are what most servers get wrong), and without copying.
//!
//! For other servers than AWS (an endpoint is given): path style, and checksums only where the
//! protocol demands them, since many servers refuse or mishandle the newer ones. Answers' checksums
//! are never checked: those of whole objects cannot cover ranges, and the format authenticates all
//! bytes anyway. Over https the payload is not hashed a second time for the signature.
//!
//! Credentials come from [`Settings::credentials`] or AWS's default chain (environment, profile,
//! web identity, ECS, instance metadata). The instance metadata service is never asked through a
//! proxy; the store itself is, if the environment names one. A server with a certificate of a private
//! authority is trusted if `SSL_CERT_FILE` names the authority's certificates.
//!
//! **Google Cloud Storage's S3 door silently ignores conditions on writes.** Use `gs://` there;
//! [`crate::probe`] finds it out if somebody does not.

mod fault;
mod settings;

use std::fmt;

use async_trait::async_trait;
use aws_sdk_s3::{Client, operation::get_object::GetObjectOutput, primitives::ByteStream};
use aws_smithy_types::byte_stream::error::Error as ByteStreamError;
use bytes::Bytes;
use futures::{Stream, stream};

use crate::{
    Call, Entry, ErrorKind, Key, LIST_PAGE_KEYS_MAX, Meta, Object, Operation, Page, Prefix, Result,
    Store, StoreError, Version,
    http_fault::{collect, lost},
};
use fault::classify;
pub use settings::{AccessKey, Settings};

/// Pages of nothing but foreign names that one listing passes over.
const FOREIGN_PAGES_MAX: u32 = 100;

/// A bucket of S3, or a part of it.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    bucket: String,
    prefix: Prefix,
    endpoint: Option<String>,
    /// Whether the signature covers the payload. Over https TLS protects it already.
    sign_payload: bool,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.describe())
    }
}

impl S3 {
    /// A client for the settings. Asks nothing of the server; may ask the metadata service for the
    /// region.
    pub async fn open(settings: Settings) -> Self {
        let client = settings.client().await;
        let Settings {
            bucket,
            prefix,
            endpoint,
            ..
        } = settings;
        let sign_payload = endpoint
            .as_ref()
            .is_some_and(|url| !url.starts_with("https:"));
        Self {
            client,
            bucket,
            prefix,
            endpoint,
            sign_payload,
        }
    }

    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn write(
        &self,
        operation: Operation,
        key: &Key,
        body: Bytes,
        condition: Condition<'_>,
    ) -> Result<Option<String>> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key));
        request = match condition {
            Condition::Always => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Is(version) => request.if_match(version.as_str()),
        };
        let mut request = request.body(ByteStream::from(body)).customize();
        if !self.sign_payload {
            request = request.disable_payload_signing();
        }
        match Box::pin(request.send()).await {
            Ok(answer) => Ok(answer.e_tag),
            Err(error) => Err(classify(error, operation, key)),
        }
    }

    async fn read(
        &self,
        operation: Operation,
        key: &Key,
        range: Option<String>,
    ) -> Result<GetObjectOutput> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key));
        Box::pin(request.set_range(range).send())
            .await
            .map_err(|error| classify(error, operation, key))
    }
}

enum Condition<'a> {
    Always,
    Absent,
    Is(&'a Version),
}

/// The stamp of an answer. Without one there is no compare-and-set.
fn version(operation: Operation, key: &Key, tag: Option<&str>) -> Result<Version> {
    tag.map(Version::new).ok_or_else(|| {
        let found = "the answer has no entity tag";
        StoreError::new(ErrorKind::Unsupported, operation, key, found)
    })
}

/// A body as a stream of its parts.
fn parts(body: ByteStream) -> impl Stream<Item = std::result::Result<Bytes, ByteStreamError>> {
    stream::unfold(
        body,
        |mut body| async move { Some((body.next().await?, body)) },
    )
}

#[async_trait]
impl Store for S3 {
    async fn put(&self, key: &Key, body: Bytes, _: Call) -> Result<()> {
        self.write(Operation::Put, key, body, Condition::Always)
            .await
            .map(drop)
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, _: Call) -> Result<Version> {
        let operation = Operation::PutIfAbsent;
        let tag = self
            .write(operation, key, body, Condition::Absent)
            .await
            .map_err(lost)?;
        version(operation, key, tag.as_deref())
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
        _: Call,
    ) -> Result<Version> {
        let operation = Operation::PutIfMatch;
        let tag = self
            .write(operation, key, body, Condition::Is(expected))
            .await
            .map_err(lost)?;
        version(operation, key, tag.as_deref())
    }

    async fn get(&self, key: &Key, max_bytes: u64, _: Call) -> Result<Object> {
        let answer = self.read(Operation::Get, key, None).await?;
        let size = size(Operation::Get, key, answer.content_length)?;
        if size > max_bytes {
            return Err(StoreError::too_large(key, size, max_bytes));
        }
        let version = version(Operation::Get, key, answer.e_tag())?;
        let bytes = collect(Operation::Get, key, parts(answer.body), size).await?;
        Ok(Object { bytes, version })
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, _: Call) -> Result<Bytes> {
        let operation = Operation::GetRange;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let last = offset
            .checked_add(len - 1)
            .filter(|last| i64::try_from(*last).is_ok())
            .ok_or_else(|| StoreError::out_of_range(key, offset, len, None))?;
        let answer = self
            .read(operation, key, Some(format!("bytes={offset}-{last}")))
            .await?;
        let Some((start, end, size)) = answer.content_range().and_then(parse_range) else {
            let found = "the server ignores ranges: its answer has no Content-Range";
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                operation,
                key,
                found,
            ));
        };
        if size <= last {
            return Err(StoreError::out_of_range(key, offset, len, Some(size)));
        }
        if (start, end) != (offset, last) {
            let found = format!("asked for bytes {offset}-{last}, got {start}-{end}");
            return Err(StoreError::new(ErrorKind::Transient, operation, key, found));
        }
        collect(operation, key, parts(answer.body), len).await
    }

    async fn head(&self, key: &Key, _: Call) -> Result<Meta> {
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.name(key));
        let answer = Box::pin(request.send())
            .await
            .map_err(|error| classify(error, Operation::Head, key))?;
        Ok(Meta {
            size: size(Operation::Head, key, answer.content_length)?,
            version: version(Operation::Head, key, answer.e_tag())?,
        })
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, _: Call) -> Result<Page> {
        let mut after = after.map(|after| self.name(after));
        for _ in 0..FOREIGN_PAGES_MAX {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .max_keys(i32::try_from(LIST_PAGE_KEYS_MAX).unwrap_or(i32::MAX))
                .set_start_after(after);
            let answer = Box::pin(request.send())
                .await
                .map_err(|error| classify(error, Operation::List, prefix))?;
            let entries: Vec<_> = answer
                .contents()
                .iter()
                .filter_map(|o| self.entry(o))
                .collect();
            if answer.is_truncated != Some(true) {
                return Ok(Page {
                    entries,
                    next: None,
                });
            }
            if let Some(last) = entries.last() {
                return Ok(Page {
                    next: Some(last.key.clone()),
                    entries,
                });
            }
            after = answer
                .contents()
                .last()
                .and_then(|object| object.key.clone());
            if after.is_none() {
                return Ok(Page {
                    entries,
                    next: None,
                });
            }
        }
        let found = format!("{FOREIGN_PAGES_MAX} pages of names that are not Lifeboat's");
        Err(StoreError::new(
            ErrorKind::Invalid,
            Operation::List,
            prefix,
            found,
        ))
    }

    async fn delete(&self, key: &Key, _: Call) -> Result<()> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.name(key));
        match Box::pin(request.send()).await {
            Ok(_) => Ok(()),
            Err(error) => match classify(error, Operation::Delete, key) {
                error if error.is_not_found() => Ok(()),
                error => Err(error),
            },
        }
    }

    fn describe(&self) -> String {
        let Self {
            bucket,
            prefix,
            endpoint,
            ..
        } = self;
        let endpoint = endpoint
            .as_ref()
            .map_or_else(String::new, |url| format!("?endpoint={url}"));
        format!("s3://{bucket}/{prefix}{endpoint}")
    }
}

impl S3 {
    /// A listed object, if its name is a key.
    fn entry(&self, object: &aws_sdk_s3::types::Object) -> Option<Entry> {
        let key = Key::new(object.key()?.strip_prefix(self.prefix.as_str())?).ok()?;
        let size = u64::try_from(object.size()?).ok()?;
        let modified = object
            .last_modified()
            .and_then(|time| (*time).try_into().ok());
        Some(Entry {
            key,
            size,
            modified: modified.unwrap_or(std::time::UNIX_EPOCH),
        })
    }
}

fn size(operation: Operation, key: &Key, length: Option<i64>) -> Result<u64> {
    length
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| {
            let found = "the answer does not tell the size";
            StoreError::new(ErrorKind::Unsupported, operation, key, found)
        })
}

/// First and last byte and total size of `bytes 0-9/100`.
fn parse_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?, size.parse().ok()?))
}
