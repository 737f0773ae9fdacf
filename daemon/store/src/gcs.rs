//! Google Cloud Storage, by its own XML API and generation preconditions.
//!
//! Not by its S3 door: that silently ignores conditions on writes, so that two owners of one
//! workload would both succeed.
//!
//! An object's version is its generation, which no two writes share. Google allows about one write
//! per second to the same name and answers more with 429; heads are written less often.
//!
//! Credentials come from [`Settings::token`], or as Google's clients find them
//! (`GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT`, the machine's metadata service). The
//! metadata service is never asked through a proxy. One request for each operation, tried once:
//! repeating is [`crate::retry`]'s.

mod connector;
mod fault;

use std::{fmt, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{
    ClientOptions, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, UpdateVersion,
    gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder},
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path,
};

use crate::{
    Call, Entry, ErrorKind, Key, LIST_PAGE_KEYS_MAX, Meta, Object, Operation, Page, Prefix, Result,
    Store, StoreError, Version,
    http_fault::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT, collect, lost},
};
use connector::Connector;
use fault::classify;

/// Where and how.
#[derive(Clone)]
pub struct Settings {
    /// The bucket.
    pub bucket: String,
    /// Prefix of all keys in the bucket.
    pub prefix: Prefix,
    /// URL instead of Google's public one: with `http:` an emulator, which gets no credentials.
    pub endpoint: Option<String>,
    /// A fixed OAuth token; else Google's default credentials.
    pub token: Option<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// A bucket of Google Cloud Storage, or a part of it.
pub struct Gcs {
    client: GoogleCloudStorage,
    bucket: String,
    prefix: Prefix,
    endpoint: Option<String>,
}

impl fmt::Debug for Gcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gcs({})", self.describe())
    }
}

impl Gcs {
    /// A client for the settings. Asks nothing of the server.
    ///
    /// # Errors
    /// If the credentials that the environment names cannot be read.
    pub fn open(settings: Settings) -> std::result::Result<Self, object_store::Error> {
        let Settings {
            bucket,
            prefix,
            endpoint,
            token,
        } = settings;
        let options = ClientOptions::new()
            .with_allow_http(endpoint.is_some())
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(ATTEMPT_TIMEOUT);
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&bucket)
            .with_client_options(options)
            .with_retry(retry)
            .with_http_connector(Connector);
        // Without encryption there is an emulator, which must not see a real machine's credentials.
        let emulated = endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.starts_with("http:"));
        if let Some(endpoint) = &endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if let Some(token) = token.or_else(|| emulated.then(|| "emulator".to_owned())) {
            builder = builder.with_bearer_token(token);
        }
        Ok(Self {
            client: builder.build()?,
            bucket,
            prefix,
            endpoint,
        })
    }

    fn path(&self, operation: Operation, key: &Key) -> Result<Path> {
        Path::parse(format!("{}{key}", self.prefix)).map_err(|error| {
            let found = "the key is not a path of Google's";
            StoreError::new(ErrorKind::Invalid, operation, key, found).because(error)
        })
    }

    /// Writes an object and tells its generation.
    async fn write(
        &self,
        operation: Operation,
        key: &Key,
        body: Bytes,
        mode: PutMode,
    ) -> Result<Option<String>> {
        let path = self.path(operation, key)?;
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        match self
            .client
            .put_opts(&path, PutPayload::from_bytes(body), options)
            .await
        {
            Ok(done) => Ok(done.version),
            Err(error) => Err(classify(error, operation, key)),
        }
    }

    async fn read(
        &self,
        operation: Operation,
        key: &Key,
        options: GetOptions,
    ) -> Result<GetResult> {
        let path = self.path(operation, key)?;
        let answer = self.client.get_opts(&path, options).await;
        answer.map_err(|error| classify(error, operation, key))
    }
}

/// The stamp of an answer. Without one there is no compare-and-set.
fn version(operation: Operation, key: &Key, generation: Option<&str>) -> Result<Version> {
    generation.map(Version::new).ok_or_else(|| {
        let found = "the answer has no generation";
        StoreError::new(ErrorKind::Unsupported, operation, key, found)
    })
}

#[async_trait]
impl Store for Gcs {
    async fn put(&self, key: &Key, body: Bytes, _: Call) -> Result<()> {
        self.write(Operation::Put, key, body, PutMode::Overwrite)
            .await
            .map(drop)
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, _: Call) -> Result<Version> {
        let operation = Operation::PutIfAbsent;
        let done = self
            .write(operation, key, body, PutMode::Create)
            .await
            .map_err(lost)?;
        version(operation, key, done.as_deref())
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        expected: &Version,
        _: Call,
    ) -> Result<Version> {
        let operation = Operation::PutIfMatch;
        // Anything else than a number, Google would refuse as a bad request. Zero means "absent".
        if expected
            .as_str()
            .parse::<i64>()
            .is_ok_and(|generation| generation > 0)
        {
            let version = Some(expected.as_str().to_owned());
            let mode = PutMode::Update(UpdateVersion {
                e_tag: None,
                version,
            });
            let done = self.write(operation, key, body, mode).await.map_err(lost)?;
            return self::version(operation, key, done.as_deref());
        }
        let found = format!("{:?} is no generation of this store", expected.as_str());
        Err(StoreError::new(ErrorKind::Conflict, operation, key, found))
    }

    async fn get(&self, key: &Key, max_bytes: u64, _: Call) -> Result<Object> {
        let operation = Operation::Get;
        let answer = self.read(operation, key, GetOptions::default()).await?;
        let size = answer.meta.size;
        if size > max_bytes {
            return Err(StoreError::too_large(key, size, max_bytes));
        }
        let version = version(operation, key, answer.meta.version.as_deref())?;
        let bytes = collect(operation, key, answer.into_stream(), size).await?;
        Ok(Object { bytes, version })
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, _: Call) -> Result<Bytes> {
        let operation = Operation::GetRange;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let end = offset
            .checked_add(len)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| StoreError::out_of_range(key, offset, len, None))?;
        let range = Some(GetRange::Bounded(offset..end));
        let answer = self
            .read(
                operation,
                key,
                GetOptions {
                    range,
                    ..GetOptions::default()
                },
            )
            .await?;
        if answer.range != (offset..end) {
            return Err(StoreError::out_of_range(
                key,
                offset,
                len,
                Some(answer.meta.size),
            ));
        }
        collect(operation, key, answer.into_stream(), len).await
    }

    async fn head(&self, key: &Key, _: Call) -> Result<Meta> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let answer = self.read(Operation::Head, key, options).await?;
        let version = version(Operation::Head, key, answer.meta.version.as_deref())?;
        Ok(Meta {
            size: answer.meta.size,
            version,
        })
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, _: Call) -> Result<Page> {
        let options = PaginatedListOptions {
            offset: after.map(|after| format!("{}{after}", self.prefix)),
            max_keys: Some(LIST_PAGE_KEYS_MAX),
            ..PaginatedListOptions::default()
        };
        let full = format!("{}{prefix}", self.prefix);
        let answer = self.client.list_paginated(Some(&full), options).await;
        let answer = answer.map_err(|error| classify(error, Operation::List, prefix))?;
        let entries: Vec<_> = answer
            .result
            .objects
            .iter()
            .filter_map(|object| self.entry(object))
            .collect();
        let next = match (answer.page_token, entries.last()) {
            (None, _) => None,
            (Some(_), Some(last)) => Some(last.key.clone()),
            (Some(_), None) => {
                let found = "a whole page of names that are not Lifeboat's";
                return Err(StoreError::new(
                    ErrorKind::Invalid,
                    Operation::List,
                    prefix,
                    found,
                ));
            }
        };
        Ok(Page { entries, next })
    }

    async fn delete(&self, key: &Key, _: Call) -> Result<()> {
        let path = self.path(Operation::Delete, key)?;
        match self.client.delete(&path).await {
            Ok(()) => Ok(()),
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
        format!("gs://{bucket}/{prefix}{endpoint}")
    }
}

impl Gcs {
    /// A listed object, if its name is a key.
    fn entry(&self, object: &object_store::ObjectMeta) -> Option<Entry> {
        let name = object.location.as_ref();
        let key = Key::new(name.strip_prefix(self.prefix.as_str())?).ok()?;
        let modified = SystemTime::from(object.last_modified);
        Some(Entry {
            key,
            size: object.size,
            modified,
        })
    }
}
