//! Reads a manifest and what is needed of the images, and checks all of it before anything is built.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use lifeboat_criu::{
    ImageSet,
    images::{AllowedCredentials, is_kept},
};
use lifeboat_format::{LatestManifest, Manifest, keys};
use lifeboat_pages::{FrameSource, StoreSource, Urgency};
use lifeboat_store::{Call, Key};

use super::{RestoreError, images::FetchedImages};
use crate::{
    daemon::Context,
    evacuate::files::FileAccess,
    warm::Warm,
    workload::{Workload, namespaces::Namespaces},
};

/// Largest manifest object that is read, in bytes.
const MANIFEST_OBJECT_BYTES_MAX: u64 = 512 << 20;

/// Largest image file that is looked into, in bytes; the rest only passes through to CRIU.
const DECODED_IMAGE_BYTES_MAX: u64 = 16 << 20;

/// Frames that are fetched at once for streams.
pub(super) const STREAM_FRAMES: usize = 8;

/// A checkpoint that was read and checked.
#[derive(Debug)]
pub struct Opened {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Gives its frames.
    pub source: Arc<dyn FrameSource>,
    /// The image files that can be looked into.
    pub images: ImageSet,
    /// Image files that were fetched, for CRIU.
    pub fetched: FetchedImages,
}

/// Reads and checks the checkpoint that `latest` names.
///
/// # Errors
/// When it cannot be read, is not what was committed, or asks for more than it may have.
pub async fn open(
    context: &Arc<Context>,
    workload: &Workload,
    latest: LatestManifest,
    hold_pid: u32,
) -> Result<Opened, RestoreError> {
    let manifest = read_manifest(context, &workload.name, latest).await?;
    if workload.owner.uid != 0 && manifest.spec.uid != workload.owner.uid {
        return Err(RestoreError::Foreign {
            owner: manifest.spec.uid,
        });
    }
    let reasons = context.platform_mismatch(&manifest.platform);
    if !reasons.is_empty() {
        return Err(RestoreError::Platform { reasons });
    }
    let manifest = Arc::new(manifest);
    let source = StoreSource::new(
        Arc::clone(&context.store),
        &manifest.packs,
        manifest.frames.as_slice(),
        (*context.seal).clone(),
    );
    let mut source = source.expect("keys of the format are keys of the store");
    if let Some(warm) = &context.warm {
        source = source.near(Arc::<Warm>::clone(warm));
    }
    let source: Arc<dyn FrameSource> = Arc::new(source);
    let fetched = FetchedImages::fetch(&manifest, &*source).await?;
    let images = read_images(&manifest, &fetched, &*source).await?;
    check_credentials(hold_pid, &images)?;
    Ok(Opened {
        manifest,
        source,
        images,
        fetched,
    })
}

/// Reads the manifest that `latest` names, and checks that it is this one.
///
/// # Errors
/// When it cannot be read, or is another one.
pub async fn read_manifest(
    context: &Context,
    name: &lifeboat_proto::id::WorkloadName,
    latest: LatestManifest,
) -> Result<Manifest, RestoreError> {
    let key = keys::checkpoint(name, latest.epoch, latest.checkpoint);
    let (manifest, digest) = read_any_manifest(context, &key).await?;
    let right = digest == latest.digest
        && manifest.checkpoint == latest.checkpoint
        && manifest.workload == *name;
    if right {
        Ok(manifest)
    } else {
        Err(RestoreError::NotCommitted { key })
    }
}

/// Reads the manifest `key`, whatever the head says.
///
/// # Errors
/// When it cannot be read or understood.
pub async fn read_any_manifest(
    context: &Context,
    key: &str,
) -> Result<(Manifest, lifeboat_format::Digest), RestoreError> {
    let parsed: Key = key
        .parse()
        .expect("keys of the format are keys of the store");
    let object = context
        .store
        .get(
            &parsed,
            MANIFEST_OBJECT_BYTES_MAX,
            Call::within(context.config.read_timeout),
        )
        .await
        .map_err(|source| RestoreError::Read {
            key: key.to_owned(),
            source,
        })?;
    Manifest::decode(&object.bytes, &context.seal).map_err(|source| RestoreError::Manifest {
        key: key.to_owned(),
        source,
    })
}

async fn read_images(
    manifest: &Manifest,
    fetched: &FetchedImages,
    source: &dyn FrameSource,
) -> Result<ImageSet, RestoreError> {
    let mut images = ImageSet::default();
    for file in &manifest.image_files {
        if !is_kept(&file.name) || file.size_bytes > DECODED_IMAGE_BYTES_MAX {
            // Its name counts all the same.
            images.insert(file.name.as_str(), Bytes::new());
            continue;
        }
        if let Some(pieces) = fetched.get(&file.name) {
            images.insert(file.name.as_str(), pieces.concat().into());
            continue;
        }
        let mut content = Vec::with_capacity(usize::try_from(file.size_bytes).unwrap_or(0));
        for frames in file.frames.chunks(STREAM_FRAMES) {
            let fetched = source.fetch(frames, Urgency::Demand).await;
            let fetched = fetched.map_err(|source| {
                let what = format!("image file {}", file.name);
                RestoreError::Fetch { what, source }
            })?;
            for frame in fetched {
                content.extend_from_slice(frame.bytes());
            }
        }
        images.insert(file.name.as_str(), content.into());
    }
    Ok(images)
}

/// No process of the image may have what the waiting hold does not have, or reach outside of it.
fn check_credentials(hold_pid: u32, images: &ImageSet) -> Result<(), RestoreError> {
    let allowed =
        AllowedCredentials::of_process(hold_pid).map_err(|source| RestoreError::Hold {
            pid: hold_pid,
            source,
        })?;
    images
        .check_credentials(&allowed)
        .map_err(RestoreError::Images)?;
    images.check_reach(&allowed).map_err(RestoreError::Images)
}

/// Puts the workload's files in place.
///
/// # Errors
/// When one cannot be written.
pub async fn extract_files(
    workload: &Workload,
    opened: &Opened,
    namespaces: &Namespaces,
    program: &Path,
) -> Result<(), RestoreError> {
    let Some(archive) = &opened.manifest.files else {
        return Ok(());
    };
    // What the restoring hold names, not what the image names.
    let paths: Vec<PathBuf> = workload.preserved();
    let access = FileAccess {
        owner: &workload.owner,
        namespaces,
        paths: &paths,
        program,
    };
    let mut extraction = access.extract().map_err(RestoreError::Files)?;
    for frames in archive.frames.chunks(STREAM_FRAMES) {
        let fetched = opened.source.fetch(frames, Urgency::Demand).await;
        let fetched = fetched.map_err(|source| RestoreError::Fetch {
            what: "the workload's files".to_owned(),
            source,
        })?;
        for frame in fetched {
            if extraction.write(frame.bytes()).await.is_err() {
                // The step has ended; it says why.
                return extraction.finish().await.map_err(RestoreError::Files);
            }
        }
    }
    extraction.finish().await.map_err(RestoreError::Files)
}
