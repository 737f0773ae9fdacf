//! Brings the packs of a checkpoint onto this node.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use lifeboat_format::{FormatError, Manifest, PackDirectory, keys};
use lifeboat_proto::{id::PackId, v1};
use lifeboat_store::{Call, Key, StoreError};
use tokio::sync::mpsc;
use tonic::Status;

use super::Warm;
use crate::{daemon::Context, observe::chain};

/// Packs that are fetched at once. Each is in memory until it is written.
const AT_ONCE: usize = 2;

/// Largest pack that is fetched, in bytes.
const PACK_BYTES_MAX: u64 = 64 << 20;

/// Why a pack is not here.
#[derive(Debug, thiserror::Error)]
enum PackError {
    #[error("fetch pack {key}")]
    Store {
        key: String,
        #[source]
        source: StoreError,
    },
    #[error("pack {key} is not what was written")]
    Damaged {
        key: String,
        #[source]
        source: FormatError,
    },
    #[error("pack {key} is another one")]
    Other { key: String },
    #[error("keep pack {key}")]
    Keep {
        key: String,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no room for pack {key}")]
    NoRoom { key: String },
}

/// Progress goes here.
pub type Tell = mpsc::Sender<Result<v1::PrefetchResponse, Status>>;

/// Fetches what is not here of a checkpoint, until it is here or there is no more room.
pub async fn prefetch(context: &Arc<Context>, warm: &Arc<Warm>, manifest: &Manifest, tell: &Tell) {
    let missing = warm.want(manifest);
    let mut fetched_bytes = 0;
    let progress = |fetched_bytes, done| {
        let shown = warm.shown_of(&manifest.workload);
        v1::PrefetchResponse {
            checkpoint: manifest.checkpoint.to_string(),
            warm_bytes: shown.as_ref().map_or(0, |one| one.warm_bytes),
            total_bytes: manifest.packs.iter().map(|pack| pack.size_bytes).sum(),
            fetched_bytes,
            done,
        }
    };
    let fetches = missing.into_iter().map(|(pack, bytes)| {
        let (context, warm) = (Arc::clone(context), Arc::clone(warm));
        async move { bring(&context, &warm, pack, bytes).await.map(|()| bytes) }
    });
    let mut fetches = stream::iter(fetches).buffered(AT_ONCE);
    while let Some(fetched) = fetches.next().await {
        let message = match fetched {
            Ok(bytes) => {
                fetched_bytes += bytes;
                Ok(progress(fetched_bytes, false))
            }
            Err(PackError::NoRoom { key }) => {
                tracing::info!(workload = %manifest.workload, key, "no room for more");
                break;
            }
            Err(error) => Err(Status::unavailable(chain(&error))),
        };
        let failed = message.is_err();
        if tell.send(message).await.is_err() || failed {
            return;
        }
    }
    // Nobody may be left to hear it.
    drop(tell.send(Ok(progress(fetched_bytes, true))).await);
}

/// Fetches one pack, and keeps it if it is what its id says.
async fn bring(
    context: &Arc<Context>,
    warm: &Arc<Warm>,
    pack: PackId,
    bytes: u64,
) -> Result<(), PackError> {
    let key = keys::pack(pack);
    let parsed: Key = key
        .parse()
        .expect("keys of the format are keys of the store");
    let room = warm.room(pack, bytes);
    let room = room.ok_or_else(|| PackError::NoRoom { key: key.clone() })?;
    let call = Call::within(context.config.read_timeout);
    let object = context.store.get(&parsed, PACK_BYTES_MAX, call).await;
    let object = object.map_err(|source| PackError::Store {
        key: key.clone(),
        source,
    })?;
    let directory = PackDirectory::verify(&object.bytes, 0, &context.seal);
    let directory = directory.map_err(|source| PackError::Damaged {
        key: key.clone(),
        source,
    })?;
    if directory.id != pack {
        return Err(PackError::Other { key });
    }
    let kept = tokio::task::spawn_blocking(move || room.keep(&object.bytes)).await;
    let kept = kept.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    kept.map_err(|source| PackError::Keep { key, source })
}
