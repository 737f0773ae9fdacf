//! The audit (`[save] audit`): before the commit of an evacuation everything that the manifest names
//! is read back from the store and compared with the memory of the frozen tree, byte by byte.
//!
//! It takes as long as a whole restore, with the workload frozen: for tests, and for whoever wants
//! to know. A difference is a failed save; the workload runs on.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use lifeboat_criu::{ImageSet, images::ImagesError};
use lifeboat_format::{
    Decoder, FormatError, Manifest, StoredFrame, frame::VerifiedFrame, keys, pack::PACK_BYTES_MAX,
    runs::PageRunRef,
};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_store::{Call, Key, StoreError};
use lifeboat_track::Runs;

use super::{
    describe::Found,
    memory::{Space, Whose},
    objects::Object,
};
use crate::{
    daemon::Context,
    pipeline::{PipelineError, Source},
};

/// Pages that are compared with zeros at once.
const PIECE: u64 = 256;

/// What the audit found, or why it could not look.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store does not have what it took.
    #[error("read pack {key} back")]
    Store {
        /// The pack.
        key: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// It gives something else.
    #[error("read frame {frame} back")]
    Frame {
        /// Its number.
        frame: u32,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// The memory cannot be read.
    #[error("read the frozen memory of {whose}")]
    Memory {
        /// Whose.
        whose: Whose,
        /// Why.
        #[source]
        source: PipelineError,
    },
    /// CRIU's images cannot be understood.
    #[error("find out what the kernel writes in frozen memory")]
    Images(#[source] ImagesError),
    /// A page is not as it was stored.
    #[error("page {page} of {whose}, {how}, differs from {what} at byte {byte}")]
    Differs {
        /// Whose.
        whose: Whose,
        /// The page.
        page: PageIndex,
        /// The first byte that differs.
        byte: usize,
        /// When it was captured.
        how: &'static str,
        /// What the checkpoint has.
        what: &'static str,
    },
}

/// What the kernel writes in the memory of frozen processes: it keeps the areas of restartable
/// sequences (rseq(2)) up to date whenever a thread does something for CRIU. It would do so before
/// the thread runs in any case.
#[derive(Debug, Default)]
pub struct KernelsOwn(BTreeMap<u32, Vec<(u64, u32)>>);

impl KernelsOwn {
    /// Reads it from CRIU's images.
    ///
    /// # Errors
    /// When they cannot be understood.
    pub fn of(images: &ImageSet) -> Result<Self, AuditError> {
        let mut areas = BTreeMap::new();
        for task in images.tasks().map_err(AuditError::Images)? {
            if !task.zombie {
                let own = images.rseq_areas(&task).map_err(AuditError::Images)?;
                areas.insert(task.pid, own);
            }
        }
        Ok(Self(areas))
    }

    /// Makes the kernel's part of `frozen` what is `stored`.
    fn cover(&self, whose: Whose, run: PageRun, frozen: &mut [u8], stored: &[u8]) {
        let Whose::Process(pid) = whose else { return };
        let begin = run.start.addr().0;
        for (address, bytes) in self.0.get(&pid).into_iter().flatten() {
            for byte in *address..address.saturating_add(u64::from(*bytes)) {
                let at = byte
                    .checked_sub(begin)
                    .and_then(|at| usize::try_from(at).ok());
                let Some(at) = at.filter(|at| *at < frozen.len()) else {
                    continue;
                };
                frozen[at] = stored[at];
            }
        }
    }
}

/// Memory that is compared: of a process, or an object.
#[derive(Debug)]
struct Part<'a> {
    whose: Whose,
    present: &'a [PageRun],
    read: &'a [PageRun],
    source: Source,
}

impl<'a> Part<'a> {
    fn of_space(space: &'a Space) -> Self {
        Self {
            whose: Whose::Process(space.inner_pid),
            present: &space.present,
            read: &space.read,
            source: Source::Process {
                pid: space.inner_pid,
                memory: Arc::clone(&space.memory),
            },
        }
    }

    fn of_object(object: &'a Object) -> Self {
        Self {
            whose: Whose::Object(object.id),
            present: &object.present,
            read: &object.read,
            source: Source::of_object(&object.object),
        }
    }
}

/// Compares a manifest with the frozen tree that it was made of.
///
/// # Errors
/// The first difference.
pub(super) async fn check(
    context: &Context,
    manifest: &Manifest,
    found: &Found,
    kernels: &KernelsOwn,
    call: Call,
) -> Result<(), AuditError> {
    let spaces = found.spaces.iter().map(Part::of_space);
    let parts: Vec<Part<'_>> = spaces
        .chain(found.objects.iter().map(Part::of_object))
        .collect();
    let stored = manifest.address_spaces.iter().map(|space| &space.runs);
    let shared = manifest.shared_memory.iter().map(|object| &object.runs);
    let mut uses: BTreeMap<u32, Vec<(usize, PageRunRef)>> = BTreeMap::new();
    for (index, (part, stored)) in parts.iter().zip(stored.chain(shared)).enumerate() {
        let present: Runs = part.present.iter().copied().collect();
        for run in stored.iter() {
            // What is still missing after a restore is not in the process.
            let parts = present.within(run.run).filter_map(|part| run.within(part));
            parts.for_each(|part| uses.entry(part.frame).or_default().push((index, part)));
        }
        let runs: Runs = stored.iter().map(|run| run.run).collect();
        zeros(part, &present, &runs)?;
    }
    let mut decoder = Decoder::new();
    for (number, pack) in (0..).zip(&manifest.packs) {
        let bytes = read(context, &keys::pack(pack.id), call).await?;
        for (frame, place) in (0..).zip(&manifest.frames) {
            let Some(uses) = uses.get(&frame).filter(|_| place.pack == number) else {
                continue;
            };
            let content = StoredFrame::from_range(&bytes, 0, place)
                .and_then(|stored| stored.verify(place, &context.seal))
                .and_then(|sealed| sealed.decode(&mut decoder))
                .map_err(|source| AuditError::Frame { frame, source })?;
            for (part, run) in uses {
                compare(&parts[*part], *run, &content, kernels)?;
            }
        }
    }
    Ok(())
}

async fn read(context: &Context, key: &str, call: Call) -> Result<Bytes, AuditError> {
    let parsed: Key = key
        .parse()
        .expect("keys of the format are keys of the store");
    let object = context
        .store
        .get(&parsed, PACK_BYTES_MAX as u64, call)
        .await;
    let object = object.map_err(|source| AuditError::Store {
        key: key.to_owned(),
        source,
    })?;
    Ok(object.bytes)
}

fn compare(
    part: &Part<'_>,
    run: PageRunRef,
    content: &VerifiedFrame,
    kernels: &KernelsOwn,
) -> Result<(), AuditError> {
    let mut frozen = frozen(part, run.run)?;
    let begin = run.frame_page as usize * PAGE_BYTES;
    let stored = content.bytes().get(begin..begin + frozen.len());
    let stored = stored.unwrap_or_default();
    if stored.len() == frozen.len() {
        kernels.cover(part.whose, run.run, &mut frozen, stored);
    }
    if stored == frozen {
        return Ok(());
    }
    let same = stored.iter().zip(&frozen).take_while(|(a, b)| a == b);
    Err(differs(part, run.run, same.count(), "a frame"))
}

fn differs(part: &Part<'_>, run: PageRun, byte: usize, what: &'static str) -> AuditError {
    let page = run.start + (byte / PAGE_BYTES) as u64;
    let was_read = part.read.iter().any(|run| run.contains(page));
    AuditError::Differs {
        whose: part.whose,
        page,
        byte: byte % PAGE_BYTES,
        how: if was_read {
            "read at the freeze"
        } else {
            "copied ahead of time"
        },
        what,
    }
}

/// What is present and in no frame holds zeros.
fn zeros(part: &Part<'_>, present: &Runs, stored: &Runs) -> Result<(), AuditError> {
    for run in present.minus(stored).as_slice() {
        let mut rest = *run;
        while !rest.is_empty() {
            let piece = PageRun::new(rest.start, rest.pages.min(PIECE));
            rest = PageRun::new(piece.end(), rest.pages - piece.pages);
            let frozen = frozen(part, piece)?;
            if let Some(at) = frozen.iter().position(|byte| *byte != 0) {
                return Err(differs(part, piece, at, "zeros"));
            }
        }
    }
    Ok(())
}

fn frozen(part: &Part<'_>, run: PageRun) -> Result<Vec<u8>, AuditError> {
    let whose = part.whose;
    let mut buffer = vec![0; usize::try_from(run.bytes()).expect("at most a frame")];
    part.source
        .read(&[run], &mut buffer)
        .map_err(|source| AuditError::Memory { whose, source })?;
    Ok(buffer)
}
