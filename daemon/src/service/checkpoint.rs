//! `lifeboat.v1.CheckpointService`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use lifeboat_format::{
    Codec, Decoder, Manifest, PackDirectory, StoredFrame,
    keys::{self, ObjectKey},
    manifest::PackRef,
};
use lifeboat_proto::{
    id::{CheckpointId, WorkloadName},
    v1::{self, checkpoint_service_server::CheckpointService},
};
use lifeboat_store::{Call, Key, Prefix};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{identity::Caller, status::status, view};
use crate::{
    daemon::Context, observe::chain, restore::open::read_any_manifest, warm::fetch::prefetch,
};

/// Most messages waiting for a caller.
const STREAM_QUEUE: usize = 64;

/// Longest time for reading or writing small objects.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest pack that is read for a check, in bytes.
const PACK_BYTES_MAX: u64 = 64 << 20;

/// The service.
#[derive(Debug)]
pub struct Checkpoints {
    context: Arc<Context>,
}

/// A checkpoint in the store.
struct Stored {
    key: String,
    workload: WorkloadName,
    id: CheckpointId,
}

impl Checkpoints {
    /// The service over the daemon's parts.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The checkpoints of one workload, or of all, oldest first.
    async fn stored(&self, workload: Option<&WorkloadName>) -> Result<Vec<Stored>, Status> {
        let prefix = workload.map_or_else(|| "workloads/".to_owned(), keys::checkpoints_prefix);
        let prefix: Prefix = prefix
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let call = Call::within(CALL_TIMEOUT);
            let page = self.context.store.list(&prefix, after.as_ref(), call).await;
            let page = page.map_err(|error| Status::unavailable(chain(&error)))?;
            for entry in page.entries {
                let key = entry.key.to_string();
                if let Ok(ObjectKey::Checkpoint { workload, id, .. }) = key.parse() {
                    found.push(Stored { key, workload, id });
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// The checkpoint that a caller names, if it may touch it.
    async fn find(
        &self,
        caller: &Caller,
        name: Option<v1::CheckpointName>,
    ) -> Result<(Stored, Manifest), Status> {
        let name = name.ok_or_else(|| Status::invalid_argument("name a workload"))?;
        let workload: WorkloadName = name.workload.parse().map_err(status)?;
        let wanted = (!name.checkpoint.is_empty())
            .then(|| name.checkpoint.parse::<CheckpointId>().map_err(status))
            .transpose()?;
        let wanted = match wanted {
            Some(id) => Some(id),
            None => self.latest(&workload).await?,
        };
        let all = self.stored(Some(&workload)).await?;
        let found = all
            .into_iter()
            .rev()
            .find(|one| wanted.is_none_or(|id| one.id == id));
        let found = found.ok_or_else(|| {
            Status::not_found(format!(
                "workload {workload} has no checkpoint {}; `lifeboat checkpoints {workload}` lists \
                 those that there are",
                name.checkpoint
            ))
        })?;
        let (manifest, _) = read_any_manifest(&self.context, &found.key)
            .await
            .map_err(status)?;
        if !caller.may_touch(manifest.spec.uid) {
            return Err(Status::permission_denied(format!(
                "the checkpoint belongs to user {}",
                manifest.spec.uid
            )));
        }
        Ok((found, manifest))
    }

    async fn latest(&self, workload: &WorkloadName) -> Result<Option<CheckpointId>, Status> {
        let head = self.context.heads.read(workload).await.map_err(status)?;
        Ok(head
            .and_then(|right| right.head.latest)
            .map(|latest| latest.checkpoint))
    }
}

#[tonic::async_trait]
impl CheckpointService for Checkpoints {
    type VerifyStream = ReceiverStream<Result<v1::VerifyResponse, Status>>;
    type PrefetchStream = ReceiverStream<Result<v1::PrefetchResponse, Status>>;

    async fn list(
        &self,
        request: Request<v1::CheckpointServiceListRequest>,
    ) -> Result<Response<v1::CheckpointServiceListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let workload = &request.get_ref().workload;
        let workload = (!workload.is_empty())
            .then(|| workload.parse::<WorkloadName>().map_err(status))
            .transpose()?;
        let mut checkpoints = Vec::new();
        for stored in self.stored(workload.as_ref()).await?.into_iter().rev() {
            let (manifest, _) = match read_any_manifest(&self.context, &stored.key).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(key = stored.key, error = chain(&error), "not listed");
                    continue;
                }
            };
            if caller.may_touch(manifest.spec.uid) {
                checkpoints.push(v1::CheckpointEntry {
                    workload: stored.workload.to_string(),
                    checkpoint: Some(view::summary_of(&manifest)),
                    latest: self.latest(&stored.workload).await? == Some(stored.id),
                });
            }
        }
        Ok(Response::new(v1::CheckpointServiceListResponse {
            checkpoints,
        }))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectRequest>,
    ) -> Result<Response<v1::InspectResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (_, manifest) = self.find(&caller, request.into_inner().name).await?;
        Ok(Response::new(description(&manifest)))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let caller = Caller::of(&request)?;
        let (_, manifest) = self.find(&caller, request.into_inner().name).await?;
        let (tell, told) = mpsc::channel(STREAM_QUEUE);
        let context = Arc::clone(&self.context);
        tokio::spawn(async move { verify(&context, &manifest, &tell).await });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn prefetch(
        &self,
        request: Request<v1::PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        let caller = Caller::of(&request)?;
        let Some(warm) = self.context.warm.clone() else {
            return Err(Status::failed_precondition(
                "this node keeps nothing near: set `bytes` of [warm] in the daemon's configuration",
            ));
        };
        let (_, manifest) = self.find(&caller, request.into_inner().name).await?;
        let (tell, told) = mpsc::channel(STREAM_QUEUE);
        let context = Arc::clone(&self.context);
        tokio::spawn(async move { prefetch(&context, &warm, &manifest, &tell).await });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request
            .name
            .as_ref()
            .is_none_or(|name| name.checkpoint.is_empty())
        {
            return Err(Status::invalid_argument("name the checkpoint to delete"));
        }
        let (stored, _) = self.find(&caller, request.name).await?;
        if !request.force && self.latest(&stored.workload).await? == Some(stored.id) {
            return Err(Status::failed_precondition(format!(
                "checkpoint {} is the latest of workload {}: without it the workload cannot be \
                 restored; --force deletes it all the same",
                stored.id, stored.workload
            )));
        }
        let key: Key = stored.key.parse().expect("it was listed as a key");
        let deleted = self
            .context
            .store
            .delete(&key, Call::within(CALL_TIMEOUT))
            .await;
        deleted.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(Response::new(v1::DeleteResponse {}))
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectGarbageRequest>,
    ) -> Result<Response<v1::CollectGarbageResponse>, Status> {
        let caller = Caller::of(&request)?;
        if caller.uid != 0 {
            return Err(Status::permission_denied("only root can collect garbage"));
        }
        let dry_run = request.get_ref().dry_run;
        let collected = crate::store_gc::collect(&self.context, dry_run).await;
        let (objects, bytes) = collected.map_err(|error| Status::unavailable(chain(&error)))?;
        Ok(Response::new(v1::CollectGarbageResponse { objects, bytes }))
    }
}

fn description(manifest: &Manifest) -> v1::InspectResponse {
    let spaces = manifest
        .address_spaces
        .iter()
        .map(|space| v1::AddressSpaceEntry {
            pid: space.pid,
            pages: space.runs.pages(),
            runs: space.runs.len() as u64,
        });
    let packs = manifest.packs.iter().map(|pack| v1::PackEntry {
        key: keys::pack(pack.id),
        size_bytes: pack.size_bytes,
    });
    let files = manifest.image_files.iter().map(|file| v1::ImageFileEntry {
        name: file.name.clone(),
        size_bytes: file.size_bytes,
    });
    v1::InspectResponse {
        checkpoint: Some(view::summary_of(manifest)),
        workload: manifest.workload.to_string(),
        argv: manifest.spec.argv.clone(),
        uid: manifest.spec.uid,
        node: manifest.platform.node.clone(),
        architecture: manifest.platform.architecture.clone(),
        criu_version: manifest.platform.criu_version.clone(),
        kernel_release: manifest.platform.kernel_release.clone(),
        packs: packs.collect(),
        address_spaces: spaces.collect(),
        image_files: files.collect(),
        stored_bytes: manifest
            .frames
            .iter()
            .map(|frame| u64::from(frame.stored_bytes))
            .sum(),
        raw_bytes: manifest
            .frames
            .iter()
            .map(|frame| u64::from(frame.raw_bytes))
            .sum(),
        frames: manifest.frames.len() as u64,
        file_bytes: manifest.files.as_ref().map_or(0, |files| files.size_bytes),
        codecs: codecs(manifest),
    }
}

/// The frames of a checkpoint by codec. A frame does not tell its level.
fn codecs(manifest: &Manifest) -> Vec<v1::CodecUse> {
    let names = [
        (Codec::Raw, "raw"),
        (Codec::Lz4, "lz4"),
        (Codec::Zstd, "zstd"),
    ];
    let uses = names.into_iter().map(|(codec, name)| {
        let frames = manifest.frames.iter().filter(|frame| frame.codec == codec);
        let mut sum = v1::CodecUse {
            codec: name.to_owned(),
            ..v1::CodecUse::default()
        };
        for frame in frames {
            sum.frames += 1;
            sum.raw_bytes += u64::from(frame.raw_bytes);
            sum.stored_bytes += u64::from(frame.stored_bytes);
        }
        sum
    });
    uses.filter(|one| one.frames > 0).collect()
}

/// Reads every pack and checks every frame of it that the manifest names.
async fn verify(
    context: &Context,
    manifest: &Manifest,
    tell: &mpsc::Sender<Result<v1::VerifyResponse, Status>>,
) {
    let total_bytes = manifest.packs.iter().map(|pack| pack.size_bytes).sum();
    let mut checked_bytes = 0;
    let mut faults: BTreeSet<String> = BTreeSet::new();
    for (index, pack) in manifest.packs.iter().enumerate() {
        let found = verify_pack(context, manifest, index, pack).await;
        checked_bytes += pack.size_bytes;
        for fault in found {
            faults.insert(fault.clone());
            let message = v1::VerifyResponse {
                checked_bytes,
                total_bytes,
                fault,
                done: false,
            };
            if tell.send(Ok(message)).await.is_err() {
                return;
            }
        }
        let fault = String::new();
        let message = v1::VerifyResponse {
            checked_bytes,
            total_bytes,
            fault,
            done: false,
        };
        if tell.send(Ok(message)).await.is_err() {
            return;
        }
    }
    let fault = String::new();
    let message = v1::VerifyResponse {
        checked_bytes,
        total_bytes,
        fault,
        done: true,
    };
    drop(tell.send(Ok(message)).await);
}

async fn verify_pack(
    context: &Context,
    manifest: &Manifest,
    index: usize,
    pack: &PackRef,
) -> Vec<String> {
    let key = keys::pack(pack.id);
    let parsed: Key = key
        .parse()
        .expect("keys of the format are keys of the store");
    let object = context
        .store
        .get(&parsed, PACK_BYTES_MAX, Call::within(CALL_TIMEOUT))
        .await;
    let bytes = match object {
        Ok(object) => object.bytes,
        Err(error) => return vec![chain(&error)],
    };
    let number = u32::try_from(index).unwrap_or(u32::MAX);
    let mut faults = Vec::new();
    if let Err(error) = PackDirectory::verify(&bytes, number, &context.seal) {
        faults.push(format!("{key}: {}", chain(&error)));
    }
    let mut decoder = Decoder::new();
    for frame in manifest.frames.iter().filter(|frame| frame.pack == number) {
        let checked = StoredFrame::from_range(&bytes, 0, frame)
            .and_then(|stored| stored.verify(frame, &context.seal))
            .and_then(|sealed| sealed.decode(&mut decoder));
        if let Err(error) = checked {
            faults.push(format!(
                "{key} at offset {}: {}",
                frame.offset,
                chain(&error)
            ));
        }
    }
    faults
}
