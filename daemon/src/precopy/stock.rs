//! Whether what the books rely on is still in the store.
//!
//! A pack was acknowledged when it was entered, perhaps hours ago. Since then somebody may have
//! deleted it: a rule of the bucket's, a collector that runs elsewhere, a person. A checkpoint that
//! names it would be committed, and its workload killed, and nobody could restore it. So each save
//! asks for all of them before it freezes anybody.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lifeboat_format::{keys, manifest::PackRef};
use lifeboat_store::{Call, Key, StoreError};

use super::{SharedAhead, lock};
use crate::daemon::Context;

/// Most questions to the store at one time.
const AT_ONCE: usize = 32;

/// Whether the store has all packs that the books name, in their sizes.
///
/// # Errors
/// When the store does not answer.
pub async fn is_there(
    context: &Context,
    ahead: &SharedAhead,
    call: Call,
) -> Result<bool, StoreError> {
    let packs: Vec<PackRef> = lock(ahead).stored_packs();
    stream::iter(packs)
        .map(|pack| has(context, pack, call))
        .buffer_unordered(AT_ONCE)
        .try_all(|has| async move { has })
        .await
}

async fn has(context: &Context, pack: PackRef, call: Call) -> Result<bool, StoreError> {
    let key: Key = keys::pack(pack.id)
        .parse()
        .expect("keys of the format are keys of the store");
    match context.store.head(&key, call).await {
        Ok(meta) if meta.size == pack.size_bytes => Ok(true),
        Ok(meta) => {
            tracing::error!(%key, size = meta.size, "a pack is not what was stored");
            Ok(false)
        }
        Err(error) if error.is_not_found() => {
            tracing::error!(%key, "a pack that was stored is gone");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
