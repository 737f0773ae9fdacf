//! The stage that sends packs to the store, several at once.

use std::sync::{Arc, atomic::Ordering};

use async_channel::Receiver;
use bytes::Bytes;
use lifeboat_format::keys;
use lifeboat_proto::id::PackId;
use lifeboat_store::{Call, Key, Store};
use tokio::task::JoinSet;

use crate::observe::failpoint;

use super::{Failure, Figures, PipelineError};

/// A finished pack.
pub(super) type FinishedPack = (PackId, Bytes);

/// Uploads packs until the queue is closed; at most `at_once` are in flight.
pub(super) async fn run(
    packs: Receiver<FinishedPack>,
    store: Arc<dyn Store>,
    at_once: usize,
    call: Call,
    figures: Arc<Figures>,
    failure: Arc<Failure>,
) {
    let mut flights = JoinSet::new();
    while !failure.is_set() {
        let pack = tokio::select! {
            pack = packs.recv(), if flights.len() < at_once => pack,
            landed = flights.join_next(), if !flights.is_empty() => {
                land(landed, &figures, &failure);
                continue;
            }
        };
        let Ok((id, body)) = pack else { break };
        flights.spawn(send(Arc::clone(&store), id, body, call));
    }
    if failure.is_set() {
        // The packer must not wait for room that never comes.
        packs.close();
        flights.abort_all();
    }
    while let Some(landed) = flights.join_next().await {
        land(Some(landed), &figures, &failure);
    }
}

async fn send(
    store: Arc<dyn Store>,
    id: PackId,
    body: Bytes,
    call: Call,
) -> Result<u64, PipelineError> {
    let key: Key = keys::pack(id)
        .parse()
        .map_err(|error: lifeboat_store::KeyError| PipelineError::Key {
            reason: error.to_string(),
        })?;
    let bytes = body.len() as u64;
    failpoint::reach("upload-begun");
    store
        .put(&key, body, call)
        .await
        .map_err(PipelineError::Upload)?;
    Ok(bytes)
}

type Landed = Option<Result<Result<u64, PipelineError>, tokio::task::JoinError>>;

fn land(landed: Landed, figures: &Figures, failure: &Failure) {
    match landed {
        None => {}
        Some(Ok(Ok(bytes))) => {
            figures.uploaded_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Some(Ok(Err(error))) => failure.set(error),
        Some(Err(error)) if error.is_cancelled() => {}
        Some(Err(_)) => failure.set(PipelineError::Panic { stage: "upload" }),
    }
}
