//! The stage that sends packs to the store, several at once.

use std::sync::{Arc, atomic::Ordering};

use async_channel::Receiver;
use bytes::Bytes;
use lifeboat_format::keys;
use lifeboat_proto::id::PackId;
use lifeboat_store::{Call, Key, Store};
use tokio::task::JoinSet;

use crate::observe::failpoint;

use super::{Failure, Figures, PipelineError, Rates, rates::Flying};

/// A finished pack.
pub(super) type FinishedPack = (PackId, Bytes);

/// What the uploads work with.
#[derive(Debug)]
pub(super) struct Stage {
    pub packs: Receiver<FinishedPack>,
    pub store: Arc<dyn Store>,
    /// Most packs in flight.
    pub at_once: usize,
    pub call: Call,
    pub rates: Arc<Rates>,
    pub figures: Arc<Figures>,
    pub failure: Arc<Failure>,
}

impl Stage {
    /// Uploads packs until the queue is closed.
    pub(super) async fn run(self) {
        let mut flights = JoinSet::new();
        while !self.failure.is_set() {
            let pack = tokio::select! {
                pack = self.packs.recv(), if flights.len() < self.at_once => pack,
                landed = flights.join_next(), if !flights.is_empty() => {
                    self.land(landed);
                    continue;
                }
            };
            let Ok((id, body)) = pack else { break };
            let (store, flying) = (Arc::clone(&self.store), self.rates.fly());
            flights.spawn(send(store, id, body, self.call, flying));
        }
        if self.failure.is_set() {
            // The packer must not wait for room that never comes.
            self.packs.close();
            flights.abort_all();
        }
        // From now on the link is all that the pipeline waits for.
        let waiting = self.rates.wait();
        while let Some(landed) = flights.join_next().await {
            self.land(Some(landed));
        }
        drop(waiting);
    }

    fn land(&self, landed: Landed) {
        match landed {
            None => {}
            Some(Ok(Ok(bytes))) => {
                let uploaded = &self.figures.uploaded_bytes;
                uploaded.fetch_add(bytes, Ordering::Relaxed);
            }
            Some(Ok(Err(error))) => self.failure.set(error),
            Some(Err(error)) if error.is_cancelled() => {}
            Some(Err(_)) => self.failure.set(PipelineError::Panic { stage: "upload" }),
        }
    }
}

async fn send(
    store: Arc<dyn Store>,
    id: PackId,
    body: Bytes,
    call: Call,
    flying: Flying,
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
    flying.land(bytes);
    Ok(bytes)
}

type Landed = Option<Result<Result<u64, PipelineError>, tokio::task::JoinError>>;
