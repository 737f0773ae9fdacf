//! Gives CRIU its image files from the store.
//!
//! They are many and small, and CRIU reads one after the other. Where each read takes a store's
//! answering time, that would be most of a restore; so the small ones are fetched together, before.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_criu::{ImageError, ImageReader, ImageSet, ImageSource, image_io::IMAGE_CHUNK_BYTES};
use lifeboat_format::Manifest;
use lifeboat_pages::{FrameSource, Urgency};

use super::{RestoreError, open::STREAM_FRAMES, shared::SharedImages};

/// Most bytes of image files that are fetched before CRIU asks for them.
const AHEAD_BYTES_MAX: u64 = 32 << 20;

/// Image files that were fetched together, by name: the pieces of each.
#[derive(Debug, Default)]
pub struct FetchedImages(BTreeMap<String, Vec<Bytes>>);

impl FetchedImages {
    /// Fetches the smallest image files of a checkpoint, as many as fit.
    ///
    /// # Errors
    /// When one cannot be had.
    pub async fn fetch(
        manifest: &Manifest,
        source: &dyn FrameSource,
    ) -> Result<Self, RestoreError> {
        let mut files: Vec<_> = manifest.image_files.iter().collect();
        files.sort_by_key(|file| file.size_bytes);
        let mut bytes = 0_u64;
        files.retain(|file| {
            bytes = bytes.saturating_add(file.size_bytes);
            bytes <= AHEAD_BYTES_MAX
        });
        let frames: Vec<u32> = files.iter().flat_map(|file| file.frames.clone()).collect();
        let fetched = source.fetch(&frames, Urgency::Demand).await;
        let fetched = fetched.map_err(|source| RestoreError::Fetch {
            what: format!("{} image files", files.len()),
            source,
        })?;
        let mut fetched = fetched.into_iter().map(|frame| frame.into_bytes());
        let pieces = files.into_iter().map(|file| {
            let pieces = fetched.by_ref().take(file.frames.len()).collect();
            (file.name.clone(), pieces)
        });
        Ok(Self(pieces.collect()))
    }

    /// A file, if it was fetched.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[Bytes]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

/// The image files of a checkpoint.
#[derive(Debug)]
pub struct StoredImages {
    manifest: Arc<Manifest>,
    source: Arc<dyn FrameSource>,
    fetched: FetchedImages,
    shared: SharedImages,
}

impl StoredImages {
    /// The image files of `manifest`, whose frames `source` gives. Of those in `fetched` the bytes
    /// are there already; `images` are those that were looked into.
    ///
    /// # Errors
    /// When the shared memory that was captured does not fit CRIU's images of it.
    pub fn new(
        manifest: Arc<Manifest>,
        source: Arc<dyn FrameSource>,
        fetched: FetchedImages,
        images: &ImageSet,
    ) -> Result<Self, RestoreError> {
        let shared = SharedImages::new(&manifest, images).map_err(RestoreError::Images)?;
        Ok(Self {
            manifest,
            source,
            fetched,
            shared,
        })
    }

    /// A file as CRIU wrote it.
    fn own(&self, name: &str) -> Option<Box<dyn ImageReader>> {
        let files = &self.manifest.image_files;
        let file = files.iter().find(|file| file.name == name)?;
        let fetched = self.fetched.get(name);
        let to_come = if fetched.is_some() {
            VecDeque::new()
        } else {
            file.frames.clone().into()
        };
        Some(Box::new(StoredImage {
            frames: to_come,
            source: Arc::clone(&self.source),
            ready: fetched.unwrap_or_default().iter().cloned().collect(),
        }))
    }
}

#[async_trait]
impl ImageSource for StoredImages {
    async fn open(&self, name: &str) -> Result<Option<Box<dyn ImageReader>>, ImageError> {
        // The tree belongs into the control groups of its new hold, whatever it was in before.
        if name == "cgroup.img" {
            return Ok(None);
        }
        if let Some(pagemap) = self.shared.pagemap(name) {
            return Ok(Some(Box::new(StoredImage {
                frames: VecDeque::new(),
                source: Arc::clone(&self.source),
                ready: VecDeque::from([Bytes::clone(pagemap)]),
            })));
        }
        let own = self.own(name);
        let (manifest, source) = (&self.manifest, &self.source);
        if self.shared.has_pages(name) {
            return Ok(self.shared.pages(name, manifest, source, own));
        }
        Ok(own)
    }
}

#[derive(Debug)]
struct StoredImage {
    frames: VecDeque<u32>,
    source: Arc<dyn FrameSource>,
    ready: VecDeque<Bytes>,
}

#[async_trait]
impl ImageReader for StoredImage {
    async fn read(&mut self) -> Result<Option<Bytes>, ImageError> {
        if self.ready.is_empty() && !self.frames.is_empty() {
            let wanted = self.frames.len().min(STREAM_FRAMES);
            let wanted: Vec<u32> = self.frames.drain(..wanted).collect();
            let fetched = self.source.fetch(&wanted, Urgency::Demand).await?;
            self.ready
                .extend(fetched.into_iter().map(|frame| frame.into_bytes()));
        }
        let Some(mut piece) = self.ready.pop_front() else {
            return Ok(None);
        };
        if piece.len() > IMAGE_CHUNK_BYTES {
            let rest = piece.split_off(IMAGE_CHUNK_BYTES);
            self.ready.push_front(rest);
        }
        Ok(Some(piece))
    }
}
