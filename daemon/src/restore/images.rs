//! Gives CRIU its image files from the store.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_criu::{ImageError, ImageReader, ImageSource, image_io::IMAGE_CHUNK_BYTES};
use lifeboat_format::Manifest;
use lifeboat_pages::{FrameSource, Urgency};

use super::open::STREAM_FRAMES;

/// The image files of a checkpoint.
#[derive(Debug)]
pub struct StoredImages {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Gives its frames.
    pub source: Arc<dyn FrameSource>,
}

#[async_trait]
impl ImageSource for StoredImages {
    async fn open(&self, name: &str) -> Result<Option<Box<dyn ImageReader>>, ImageError> {
        // The tree belongs into the control groups of its new hold, whatever it was in before.
        if name == "cgroup.img" {
            return Ok(None);
        }
        let file = self
            .manifest
            .image_files
            .iter()
            .find(|file| file.name == name);
        Ok(file.map(|file| {
            Box::new(StoredImage {
                frames: file.frames.clone().into(),
                source: Arc::clone(&self.source),
                ready: VecDeque::new(),
            }) as Box<dyn ImageReader>
        }))
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
