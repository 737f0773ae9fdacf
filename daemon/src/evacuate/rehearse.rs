//! The last steps of a drill: what a commit would write is written where nobody looks for it, and
//! deleted. Nothing of a drill counts: no head is touched, no checkpoint appears.
//!
//! What cannot be deleted is garbage: packs for `lifeboat gc`, a manifest below `drills/`.

use lifeboat_format::{Manifest, keys};
use lifeboat_proto::id::PackId;
use lifeboat_store::{Call, Key, KeyError};

use super::commit::CommitError;
use crate::{daemon::Context, observe::chain};

/// Writes the manifest to a place of its own, and deletes it and `packs`, which nothing else names.
///
/// # Errors
/// When the store does not take it.
pub(super) async fn write(
    context: &Context,
    manifest: &Manifest,
    packs: &[PackId],
    call: Call,
) -> Result<(), CommitError> {
    let (body, _) = manifest
        .encode(&context.seal)
        .map_err(CommitError::Format)?;
    let name = format!("drills/{}/{}", manifest.workload, manifest.checkpoint);
    let key: Key = name.parse().map_err(|error: KeyError| CommitError::Key {
        reason: error.to_string(),
    })?;
    let written = context.store.put_if_absent(&key, body, call).await;
    delete(context, &key, call).await;
    for pack in packs {
        if let Ok(key) = keys::pack(*pack).parse() {
            delete(context, &key, call).await;
        }
    }
    written.map(drop).map_err(CommitError::Store)
}

async fn delete(context: &Context, key: &Key, call: Call) {
    if let Err(error) = context.store.delete(key, call).await {
        tracing::debug!(%key, error = chain(&error), "a drill leaves something behind");
    }
}
