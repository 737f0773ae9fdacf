//! Whether what the books rely on is still in the store.
//!
//! A pack was acknowledged when it was entered, perhaps hours ago. Since then somebody may have
//! deleted it: a rule of the bucket's, a collector that runs elsewhere, a person. A checkpoint that
//! names it would be committed, and its workload killed, and nobody could restore it. So each save
//! asks for all of them, while it works, and does not commit before the answers are there.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lifeboat_format::{keys, manifest::PackRef};
use lifeboat_store::{Call, Key, StoreError};
use tokio_util::task::AbortOnDropHandle;

use super::{SharedAhead, lock};
use crate::daemon::Context;

/// Most questions to the store at one time.
const AT_ONCE: usize = 32;

/// A question to the store about all packs that books named when it was asked.
#[derive(Debug)]
pub struct Stock {
    asked: AbortOnDropHandle<Result<bool, StoreError>>,
    packs: usize,
}

impl Stock {
    /// Asks, in the background.
    #[must_use]
    pub fn ask(context: &Arc<Context>, ahead: &SharedAhead, call: Call) -> Self {
        let packs: Vec<PackRef> = lock(ahead).stored_packs();
        let (context, count) = (Arc::clone(context), packs.len());
        let ask = async move {
            stream::iter(packs)
                .map(|pack| has(&context, pack, call))
                .buffer_unordered(AT_ONCE)
                .try_all(|has| async move { has })
                .await
        };
        Self {
            asked: AbortOnDropHandle::new(tokio::spawn(ask)),
            packs: count,
        }
    }

    /// Whether the store has all of them, in their sizes.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn is_there(&mut self) -> Result<bool, StoreError> {
        let answer = (&mut self.asked).await;
        answer.unwrap_or_else(|error| {
            tracing::error!(%error, packs = self.packs, "asking for packs failed");
            Ok(false)
        })
    }
}

async fn has(context: &Context, pack: PackRef, call: Call) -> Result<bool, StoreError> {
    let key: Key = keys::pack(pack.id)
        .parse()
        .expect("keys of the format are keys of the store");
    match context.store.size(&key, call).await {
        Ok(size) if size == pack.size_bytes => Ok(true),
        Ok(size) => {
            tracing::error!(%key, size, "a pack is not what was stored");
            Ok(false)
        }
        Err(error) if error.is_not_found() => {
            tracing::error!(%key, "a pack that was stored is gone");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
