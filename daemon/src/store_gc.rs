//! Garbage: packs that no manifest names.
//!
//! A pack is written before the manifest that names it, so a young pack may belong to a save under
//! way: only packs older than [`PACK_AGE_MIN`] are collected. Manifests are read *after* the packs
//! were listed, so that one written in between is seen.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use lifeboat_format::keys::ObjectKey;
use lifeboat_proto::id::PackId;
use lifeboat_store::{Call, Entry, Prefix};

use crate::{
    daemon::Context,
    restore::{RestoreError, open::read_any_manifest},
};

/// Youngest pack that can be garbage. Longer than any save.
pub const PACK_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Longest time for one call to the store.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Why garbage was not collected. What was deleted before was garbage.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The store failed.
    #[error("look through the store")]
    Store(#[source] lifeboat_store::StoreError),
    /// A manifest cannot be read: what it names is not known.
    #[error("read a manifest; nothing was deleted")]
    Manifest(#[source] Box<RestoreError>),
}

/// Deletes garbage, or only counts it. Returns the number of objects and their bytes.
///
/// # Errors
/// When the store fails, or a manifest cannot be read.
pub async fn collect(context: &Context, dry_run: bool) -> Result<(u64, u64), GcError> {
    let oldest = SystemTime::now() - PACK_AGE_MIN;
    let packs = list(context, "packs/").await?;
    let manifests = list(context, "workloads/").await?;
    let mut live: BTreeSet<PackId> = BTreeSet::new();
    for entry in &manifests {
        let key = entry.key.to_string();
        if !matches!(key.parse(), Ok(ObjectKey::Checkpoint { .. })) {
            continue;
        }
        let (manifest, _) = read_any_manifest(context, &key)
            .await
            .map_err(|error| GcError::Manifest(Box::new(error)))?;
        live.extend(manifest.packs.iter().map(|pack| pack.id));
    }
    let (mut objects, mut bytes) = (0, 0);
    for entry in packs {
        let key = entry.key.to_string();
        let Ok(ObjectKey::Pack(id)) = key.parse() else {
            continue;
        };
        if live.contains(&id) || entry.modified > oldest {
            continue;
        }
        if !dry_run {
            let call = Call::within(CALL_TIMEOUT);
            context
                .store
                .delete(&entry.key, call)
                .await
                .map_err(GcError::Store)?;
        }
        objects += 1;
        bytes += entry.size;
    }
    Ok((objects, bytes))
}

async fn list(context: &Context, prefix: &str) -> Result<Vec<Entry>, GcError> {
    let prefix: Prefix = prefix.parse().expect("a fixed prefix");
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let call = Call::within(CALL_TIMEOUT);
        let page = context
            .store
            .list(&prefix, after.as_ref(), call)
            .await
            .map_err(GcError::Store)?;
        all.extend(page.entries);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}
