//! A stream to and from a store, in parts, several at once: what a good upload tool does.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use lifeboat_store::{Call, Key, Store};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of a part: as large as a pack.
const PART_BYTES: usize = 16 << 20;

/// Parts under way at once: as many as the daemon's default.
const PARTS_AT_ONCE: usize = 6;

/// Longest time for a part.
const PART_LIMIT: Duration = Duration::from_secs(120);

/// A place for one stream.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    store: Arc<dyn Store>,
    name: String,
}

impl Transfer {
    pub(super) async fn open(url: &str, name: String) -> anyhow::Result<Self> {
        let store = lifeboat_store::open(url, &lifeboat_store::Options::default()).await;
        Ok(Self {
            store: store.context("open the store")?,
            name,
        })
    }

    fn key(&self, part: usize) -> anyhow::Result<Key> {
        Key::new(format!("stock/{}/{part:06}", self.name)).context("name a part")
    }

    /// Sends everything; returns the number of parts and bytes.
    pub(super) async fn upload(
        &self,
        source: impl AsyncRead + Unpin,
    ) -> anyhow::Result<(usize, u64)> {
        let parts = stream::try_unfold((source, 0), |(mut source, number)| async move {
            let part = read_part(&mut source)
                .await
                .context("read what is to be sent")?;
            anyhow::Ok((!part.is_empty()).then_some(((number, part), (source, number + 1))))
        });
        let sent = parts.map(|part| async {
            let (number, part) = part?;
            let bytes = part.len() as u64;
            self.store
                .put(&self.key(number)?, part, Call::within(PART_LIMIT))
                .await?;
            anyhow::Ok(bytes)
        });
        let sizes: Vec<u64> = sent.buffer_unordered(PARTS_AT_ONCE).try_collect().await?;
        Ok((sizes.len(), sizes.iter().sum()))
    }

    /// Fetches everything, in order.
    pub(super) async fn download(
        &self,
        parts: usize,
        mut target: impl AsyncWrite + Unpin,
    ) -> anyhow::Result<()> {
        let fetched = stream::iter(0..parts).map(|number| async move {
            let key = self.key(number)?;
            let object = self
                .store
                .get(&key, PART_BYTES as u64, Call::within(PART_LIMIT))
                .await;
            anyhow::Ok(object?.bytes)
        });
        let mut fetched = fetched.buffered(PARTS_AT_ONCE);
        while let Some(part) = fetched.next().await {
            target
                .write_all(&part?)
                .await
                .context("write what was fetched")?;
        }
        target.shutdown().await.context("write what was fetched")
    }

    /// Deletes everything.
    pub(super) async fn delete(&self, parts: usize) -> anyhow::Result<()> {
        for number in 0..parts {
            self.store
                .delete(&self.key(number)?, Call::within(PART_LIMIT))
                .await?;
        }
        Ok(())
    }
}

async fn read_part(source: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(PART_BYTES);
    source
        .take(PART_BYTES as u64)
        .read_to_end(&mut part)
        .await?;
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_sent_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let transfer = Transfer::open(&url, "x".to_owned()).await.unwrap();
        let sent: Vec<u8> = (0..=250).cycle().take(PART_BYTES + 12345).collect();
        let (parts, bytes) = transfer.upload(&*sent).await.unwrap();
        assert_eq!((parts, bytes), (2, sent.len() as u64));
        let mut got = Vec::new();
        transfer.download(parts, &mut got).await.unwrap();
        assert!(got == sent);
        transfer.delete(parts).await.unwrap();
        assert!(transfer.download(parts, &mut Vec::new()).await.is_err());
    }
}
