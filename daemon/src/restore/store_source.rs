//! Frames from the store, one after the other.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lifeboat_format::{Decoder, Manifest, Seal, StoredFrame, VerifiedFrame, keys};
use lifeboat_pages::{FetchError, FrameSource, Urgency};
use lifeboat_store::{Call, Key, Store};

/// Longest time for one read.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct StoreSource {
    store: Arc<dyn Store>,
    manifest: Arc<Manifest>,
    seal: Arc<Seal>,
}

impl StoreSource {
    pub(super) fn new(store: Arc<dyn Store>, manifest: Arc<Manifest>, seal: Arc<Seal>) -> Self {
        Self {
            store,
            manifest,
            seal,
        }
    }
}

#[async_trait]
impl FrameSource for StoreSource {
    async fn fetch(
        &self,
        frames: &[u32],
        _urgency: Urgency,
    ) -> Result<Vec<VerifiedFrame>, FetchError> {
        let mut out = Vec::new();
        for index in frames {
            let all = &self.manifest.frames;
            let frame = all.get(*index as usize).ok_or(FetchError::NoSuchFrame {
                frame: *index,
                frames: u32::try_from(all.len()).unwrap_or(u32::MAX),
            })?;
            let object = keys::pack(self.manifest.packs[frame.pack as usize].id);
            let key: Key = object
                .parse()
                .expect("keys of the format are keys of the store");
            let (offset, bytes) = (frame.offset, u64::from(frame.stored_bytes));
            let call = Call::within(READ_TIMEOUT);
            let payload = self
                .store
                .get_range(&key, offset, bytes, call)
                .await
                .map_err(|source| FetchError::Unavailable {
                    object: object.clone(),
                    offset,
                    bytes,
                    waited: READ_TIMEOUT,
                    attempts: 1,
                    source: source.into(),
                })?;
            let verified = StoredFrame::new(payload)
                .verify(frame, &self.seal)
                .and_then(|sealed| sealed.decode(&mut Decoder::new()))
                .map_err(|source| FetchError::Corrupt {
                    frame: *index,
                    object: object.clone(),
                    offset,
                    attempts: 1,
                    source: source.into(),
                })?;
            out.push(verified);
        }
        Ok(out)
    }
}
