//! Shared memory that Lifeboat has captured, on its way back through CRIU.
//!
//! CRIU makes each object and fills it before a process runs, from a pagemap and a file of pages.
//! Both are put together here: of what CRIU wrote itself, and of frames.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_criu::{
    ImageError, ImageReader, ImageSet,
    images::{
        ImagesError,
        shared::{self, Merged, Piece},
    },
};
use lifeboat_format::{Manifest, manifest::SharedMemory, runs::PageRunRef};
use lifeboat_pages::{FrameSource, Urgency};
use lifeboat_proto::units::{PAGE_BYTES, PageRun};

/// Frames that are fetched at once: what comes next in the file of pages.
const FETCHED_FRAMES: usize = 64;

/// Most frames that are kept for pages that come later, 64 MiB at most. A frame of a delta has pages
/// from all over an object.
const KEPT_FRAMES: usize = 256;

/// The image files of shared memory that differ from what CRIU wrote.
#[derive(Debug, Default)]
pub(super) struct SharedImages {
    pagemaps: BTreeMap<String, Bytes>,
    /// By the name of the file of pages: the number of the object in the manifest.
    pages: BTreeMap<String, (usize, Vec<Piece>)>,
}

impl SharedImages {
    /// Puts together what `manifest` has of shared memory and what is in `images`.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub(super) fn new(manifest: &Manifest, images: &ImageSet) -> Result<Self, ImagesError> {
        let mut all = Self::default();
        for (number, object) in manifest.shared_memory.iter().enumerate() {
            let name = shared::pagemap_name(object.id);
            let pagemap = images
                .get(&name)
                .ok_or_else(|| ImagesError::Missing { name: name.clone() })?;
            let ours: Vec<PageRun> = object.runs.iter().map(|run| run.run).collect();
            let Merged {
                pagemap,
                pages_name,
                pieces,
            } = shared::merge(&name, pagemap, &ours)?;
            all.pagemaps.insert(name, pagemap);
            all.pages.insert(pages_name, (number, pieces));
        }
        Ok(all)
    }

    /// A pagemap, if it differs.
    pub(super) fn pagemap(&self, name: &str) -> Option<&Bytes> {
        self.pagemaps.get(name)
    }

    /// Whether a file of pages differs.
    pub(super) fn has_pages(&self, name: &str) -> bool {
        self.pages.contains_key(name)
    }

    /// A reader of a file of pages, if it differs; `criu` reads what CRIU wrote.
    pub(super) fn pages(
        &self,
        name: &str,
        manifest: &Manifest,
        source: &Arc<dyn FrameSource>,
        criu: Option<Box<dyn ImageReader>>,
    ) -> Option<Box<dyn ImageReader>> {
        let (number, pieces) = self.pages.get(name)?;
        let object = manifest.shared_memory.get(*number)?;
        let parts = pieces.iter().flat_map(|piece| parts(object, *piece));
        Some(Box::new(SharedPages {
            parts: parts.collect(),
            kept: Kept::default(),
            source: Arc::clone(source),
            criu,
            pending: Bytes::new(),
        }))
    }
}

/// Where the next bytes of a file of pages come from.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// So many from CRIU's own file.
    Criu(u64),
    /// Pages in a frame.
    Frame(PageRunRef),
}

fn parts(object: &SharedMemory, piece: Piece) -> Vec<Part> {
    match piece {
        Piece::Criu(run) => vec![Part::Criu(run.bytes())],
        Piece::Ours(run) => object.runs.within(run).map(Part::Frame).collect(),
    }
}

/// Frames that are at hand.
#[derive(Debug, Default)]
struct Kept {
    frames: BTreeMap<u32, Bytes>,
    /// In the order of their coming.
    order: VecDeque<u32>,
}

impl Kept {
    fn add(&mut self, frame: u32, content: Bytes) {
        while self.order.len() >= KEPT_FRAMES {
            let oldest = self.order.pop_front();
            oldest.map(|oldest| self.frames.remove(&oldest));
        }
        if self.frames.insert(frame, content).is_none() {
            self.order.push_back(frame);
        }
    }
}

struct SharedPages {
    parts: VecDeque<Part>,
    kept: Kept,
    source: Arc<dyn FrameSource>,
    criu: Option<Box<dyn ImageReader>>,
    /// What was read of CRIU's own file and belongs to later parts.
    pending: Bytes,
}

impl SharedPages {
    /// The pages of a run of a frame.
    async fn framed(&mut self, run: PageRunRef) -> Result<Bytes, ImageError> {
        if !self.kept.frames.contains_key(&run.frame) {
            self.fetch(run.frame).await?;
        }
        let content = self.kept.frames.get(&run.frame);
        let begin = run.frame_page as usize * PAGE_BYTES;
        let bytes = usize::try_from(run.run.bytes())?;
        content
            .filter(|content| content.len() >= begin + bytes)
            .map(|content| content.slice(begin..begin + bytes))
            .ok_or_else(|| format!("frame {} has not the pages that it should", run.frame).into())
    }

    /// Fetches a frame, and those that are needed after it.
    async fn fetch(&mut self, first: u32) -> Result<(), ImageError> {
        let mut wanted = vec![first];
        for part in &self.parts {
            let Part::Frame(run) = part else { continue };
            if wanted.len() == FETCHED_FRAMES {
                break;
            }
            if !wanted.contains(&run.frame) && !self.kept.frames.contains_key(&run.frame) {
                wanted.push(run.frame);
            }
        }
        let fetched = self.source.fetch(&wanted, Urgency::Demand).await?;
        for (number, frame) in wanted.into_iter().zip(fetched) {
            self.kept.add(number, frame.into_bytes());
        }
        Ok(())
    }

    /// At most `bytes` of CRIU's own file.
    async fn own(&mut self, bytes: u64) -> Result<Bytes, ImageError> {
        while self.pending.is_empty() {
            let next = match &mut self.criu {
                Some(reader) => reader.read().await?,
                None => None,
            };
            self.pending = next.ok_or("a file of pages is shorter than its pagemap")?;
        }
        let taken = usize::try_from(bytes)?.min(self.pending.len());
        Ok(self.pending.split_to(taken))
    }
}

#[async_trait]
impl ImageReader for SharedPages {
    async fn read(&mut self) -> Result<Option<Bytes>, ImageError> {
        match self.parts.pop_front() {
            None => Ok(None),
            Some(Part::Frame(run)) => self.framed(run).await.map(Some),
            Some(Part::Criu(bytes)) => {
                let piece = self.own(bytes).await?;
                let left = bytes - piece.len() as u64;
                if left > 0 {
                    self.parts.push_front(Part::Criu(left));
                }
                Ok(Some(piece))
            }
        }
    }
}
