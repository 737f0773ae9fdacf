//! At the freeze: what must still be read, and what the checkpoint takes from the books.
//!
//! A page need not be read if the books know it and the tracker says that it was not written since
//! the round before it was read. Everything else that is present is read, whatever the reason. When
//! the delta was entered into the books, every present page must be known: [`Frozen::runs`] refuses
//! a checkpoint of which that is not true.

use std::collections::BTreeMap;

use lifeboat_format::{PageRuns, frame::FrameRef, manifest::PackRef, runs::PageRunRef};
use lifeboat_proto::{
    id::PackId,
    units::{PageIndex, PageRun},
};
use lifeboat_track::{ContentHash, Last, Runs, SpaceId, SpaceLast};

use super::{Ahead, AheadError, saved::Saved};
use crate::pipeline::Captured;

/// Most pages of a delta that are compared with what is stored: their hashes are kept until the
/// upload is done.
const COMPARED_PAGES_MAX: u64 = 1 << 18;

/// Most ranges that are noted as likely to be needed first, of one address space.
const HOT_RANGES_MAX: usize = 1 << 16;

/// What the tracker says of the processes of a frozen tree.
#[derive(Debug)]
pub(crate) struct Lasts(BTreeMap<u32, (SpaceId, Last)>);

impl Lasts {
    pub(crate) fn new(lasts: Vec<SpaceLast>) -> Self {
        let of = |one: SpaceLast| {
            (
                one.pid.as_raw_nonzero().get().unsigned_abs(),
                (one.space, one.last),
            )
        };
        Self(lasts.into_iter().map(of).collect())
    }
}

/// What is in a frozen process.
#[derive(Debug)]
pub struct Delta {
    /// Its books.
    pub space: SpaceId,
    /// Pages that hold something.
    pub present: Vec<PageRun>,
    /// Those of them that must be read now.
    pub read: Vec<PageRun>,
    /// Whether what is read is to be compared with what is stored.
    pub compare: bool,
}

/// A page is in the tree and in no books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missing} of the {} pages at {} were captured by nobody", run.pages, run.start)]
pub struct Uncaptured {
    /// The run.
    pub run: PageRun,
    /// Number of its pages that are not known.
    pub missing: u64,
}

/// The books of a frozen tree with its delta in them.
#[derive(Debug)]
pub struct Frozen {
    /// Added to the numbers of the frames that the delta's pipeline has told.
    pub first_frame: u32,
    /// All packs.
    pub packs: Vec<PackRef>,
    /// All frames.
    pub frames: Vec<FrameRef>,
}

/// One freeze of a tree. Work that was begun for a freeze and comes late, when the tree runs again,
/// must not be taken for that of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freeze(u64);

impl Ahead {
    /// Looks up before a freeze what is known: nothing may be entered from now on until the tree is
    /// thawed.
    pub fn get_ready(&mut self) -> Freeze {
        self.thaw();
        let known = |(id, saved): (&SpaceId, &Saved)| (*id, saved.captured_and_known());
        self.known = self.spaces.iter().map(known).collect();
        self.freeze
    }

    /// Looks what the frozen tree consists of, if that freeze is not over. Blocks.
    ///
    /// # Errors
    /// When the tracker failed.
    pub fn look_at_frozen(&mut self, freeze: Freeze) -> Result<(), AheadError> {
        if self.lasts.is_none() && self.freeze == freeze {
            let lasts = self.tracker.last().map_err(AheadError::Track)?;
            self.lasts = Some(Lasts::new(lasts));
        }
        Ok(())
    }

    /// What must be read of process `pid`, whose `captured` mappings are Lifeboat's to capture.
    /// `None`: it has no memory of its own, nothing is known of it, or that freeze is over. The whole
    /// tree must be frozen from the first call on, until [`Ahead::thaw`]. Blocks.
    ///
    /// # Errors
    /// When the tracker failed: nothing may be taken from the books.
    pub fn delta(
        &mut self,
        freeze: Freeze,
        pid: u32,
        captured: &[PageRun],
    ) -> Result<Option<Delta>, AheadError> {
        if self.freeze != freeze {
            return Ok(None);
        }
        self.look_at_frozen(freeze)?;
        let lasts = self.lasts.as_mut().map(|lasts| &mut lasts.0);
        let Some((space, last)) = lasts.and_then(|lasts| lasts.remove(&pid)) else {
            return Ok(None);
        };
        let captured: Runs = captured.iter().copied().collect();
        let present = last.present.and(&captured);
        let (captured, known) = self.known.remove(&space).unwrap_or_default();
        let read = present.minus(&known.minus(&last.dirty));
        // What was captured before and is read again, was written since.
        let warm = captured.and(&read).minus(&last.hot);
        let hot = last.hot.and(&present);
        let hot = hot.as_slice().iter().chain(warm.as_slice());
        let hot = hot.take(HOT_RANGES_MAX).copied().collect();
        self.hot.insert(space, hot);
        Ok(Some(Delta {
            space,
            compare: read.pages() <= COMPARED_PAGES_MAX,
            present: present.as_slice().to_vec(),
            read: read.as_slice().to_vec(),
        }))
    }

    /// The tree runs again, or is gone.
    pub fn thaw(&mut self) {
        self.freeze.0 += 1;
        self.lasts = None;
        self.known.clear();
        self.hot.clear();
    }

    /// Pages of a frozen process that its program is likely to need first, after a restore: those
    /// that were written round after round, then those that were written lately.
    #[must_use]
    pub fn hot(&self, space: SpaceId) -> Vec<PageRun> {
        self.hot.get(&space).cloned().unwrap_or_default()
    }

    /// What is stored of a page, if that is to be compared with what it holds.
    #[must_use]
    pub fn hash(&self, space: SpaceId, page: PageIndex) -> Option<ContentHash> {
        self.spaces.get(&space)?.hash(page)
    }

    /// Enters the delta of a frozen tree, whose address spaces have these books, by their indices in
    /// its pipeline.
    ///
    /// # Errors
    /// When it does not make an index.
    pub fn enter_delta(
        &mut self,
        delta: &Captured,
        spaces: &[(Option<u32>, Option<SpaceId>)],
    ) -> Result<Frozen, AheadError> {
        for (pid, id) in spaces {
            let pid = pid
                .and_then(|pid| i32::try_from(pid).ok())
                .and_then(rustix::process::Pid::from_raw);
            if let (Some(id), Some(pid)) = (id, pid) {
                self.spaces.entry(*id).or_insert_with(|| Saved::new(pid));
            }
        }
        let ids: Vec<Option<SpaceId>> = spaces.iter().map(|(_, id)| *id).collect();
        let first_frame = self.enter(delta, &ids)?;
        Ok(Frozen {
            first_frame,
            packs: self.stored.packs().collect(),
            frames: self.stored.frames().to_vec(),
        })
    }

    /// Where the content of the present pages of a frozen process is stored.
    ///
    /// # Errors
    /// When a page is not known: the checkpoint is not whole.
    pub fn runs(&self, space: SpaceId, present: &[PageRun]) -> Result<PageRuns, Uncaptured> {
        let mut runs = PageRuns::new();
        for run in present {
            let nothing = Uncaptured {
                run: *run,
                missing: run.pages,
            };
            let saved = self.spaces.get(&space).ok_or(nothing)?;
            let known = saved.known_pages_within(*run);
            if known != run.pages {
                return Err(Uncaptured {
                    run: *run,
                    missing: run.pages.saturating_sub(known),
                });
            }
            for part in saved.within(*run) {
                runs.push(part).map_err(|_| nothing)?;
            }
        }
        Ok(runs)
    }

    /// A checkpoint names these packs, or may do so.
    pub fn name(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.stored.commit(packs);
    }
}

impl Frozen {
    /// A run of the delta's pipeline, in the numbers of the books.
    #[must_use]
    pub const fn shifted(&self, run: PageRunRef) -> PageRunRef {
        PageRunRef {
            frame: run.frame.saturating_add(self.first_frame),
            ..run
        }
    }
}
