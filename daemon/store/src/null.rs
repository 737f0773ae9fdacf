//! A store that discards packs: for measuring what comes before a store, never for keeping anything.
//!
//! What [`Store::put`] is given (packs) is dropped and counts as written. Objects that are written
//! under a condition (manifests, heads) are kept in this process's memory, since the right to commit
//! hangs on them. A checkpoint that was committed here can never be restored, so [`crate::open`]
//! accepts such a store only if [`crate::Options::allow_null`] is set or the environment has
//! [`ALLOW_VARIABLE`]`=1`; [`crate::probe`] finds it unusable.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Call, Key, Meta, Object, Page, Prefix, Result, Store, Version, memory::Memory};

/// Must be `1` for `null:` URLs.
pub const ALLOW_VARIABLE: &str = "LIFEBOAT_ALLOW_NULL_STORE";

/// A store that discards packs.
#[derive(Clone, Debug, Default)]
pub struct Null {
    conditional: Memory,
}

#[async_trait]
impl Store for Null {
    async fn put(&self, _: &Key, _: Bytes, _: Call) -> Result<()> {
        Ok(())
    }

    async fn put_pieces(&self, _: &Key, _: Vec<Bytes>, _: Call) -> Result<()> {
        Ok(())
    }

    fn takes_pieces(&self) -> bool {
        true
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        self.conditional.put_if_absent(key, body, call).await
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        version: &Version,
        call: Call,
    ) -> Result<Version> {
        self.conditional
            .put_if_match(key, body, version, call)
            .await
    }

    async fn get(&self, key: &Key, max_bytes: u64, call: Call) -> Result<Object> {
        self.conditional.get(key, max_bytes, call).await
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, call: Call) -> Result<Bytes> {
        self.conditional.get_range(key, offset, len, call).await
    }

    async fn head(&self, key: &Key, call: Call) -> Result<Meta> {
        self.conditional.head(key, call).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, call: Call) -> Result<Page> {
        self.conditional.list(prefix, after, call).await
    }

    async fn delete(&self, key: &Key, call: Call) -> Result<()> {
        self.conditional.delete(key, call).await
    }

    fn describe(&self) -> String {
        "null:".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ErrorKind, OpenError, Options, open};

    #[tokio::test]
    async fn packs_are_gone_and_conditional_writes_are_kept() {
        let options = Options {
            allow_null: true,
            ..Options::default()
        };
        let store = open("null:x", &options).await.unwrap();
        let call = || Call::within(Duration::from_secs(5));
        let (pack, head) = (Key::new("p").unwrap(), Key::new("h").unwrap());
        store.put(&pack, "x".into(), call()).await.unwrap();
        let error = store.get(&pack, 10, call()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        store
            .put_if_absent(&head, "y".into(), call())
            .await
            .unwrap();
        let error = store.put_if_absent(&head, "z".into(), call()).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(&*store.get(&head, 10, call()).await.unwrap().bytes, b"y");
    }

    #[tokio::test]
    async fn nobody_gets_one_by_accident() {
        let error = open("null:x", &Options::default()).await.unwrap_err();
        assert!(matches!(error, OpenError::NullNotAllowed), "{error}");
    }
}
