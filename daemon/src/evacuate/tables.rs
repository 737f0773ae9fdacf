//! The packs, frames and page runs of a manifest: of what was captured now, and of what was saved
//! ahead of time.

use lifeboat_format::{PageRuns, frame::FrameRef, manifest::PackRef};
use lifeboat_proto::units::PageRun;
use lifeboat_track::SpaceId;

use super::{
    commit::CommitError,
    describe::Found,
    memory::{Space, Whose},
    objects::{FIRST_INDEX, Object},
};
use crate::{
    pipeline::Captured,
    precopy::{self, Frozen, SharedAhead},
};

/// Tables of a manifest.
#[derive(Debug)]
pub(super) struct Tables {
    pub packs: Vec<PackRef>,
    pub frames: Vec<FrameRef>,
    /// Runs of each address space, then of each object of shared memory.
    pub runs: Vec<PageRuns>,
    /// Pages of each that are likely to be needed first.
    pub hot: Vec<Vec<PageRun>>,
}

/// Memory that has an index: an address space, or an object.
#[derive(Clone, Copy)]
struct Part<'a> {
    whose: Whose,
    /// PID in the daemon's PID namespace.
    pid: Option<u32>,
    books: Option<SpaceId>,
    present: &'a [PageRun],
}

impl Part<'_> {
    fn of_space(space: &Space) -> Part<'_> {
        Part {
            whose: Whose::Process(space.inner_pid),
            pid: Some(space.pid),
            books: space.books,
            present: &space.present,
        }
    }

    fn of_object(object: &Object) -> Part<'_> {
        Part {
            whose: Whose::Object(object.id),
            pid: None,
            books: object.books,
            present: &object.present,
        }
    }
}

impl Tables {
    /// Tables of all that was found, of which the delta, or all, was captured now. Streams in
    /// `captured` get the numbers that their frames have in the tables.
    ///
    /// # Errors
    /// When the pages do not make an index, or one is missing.
    pub(super) fn new(
        captured: &mut Captured,
        found: &Found,
        ahead: Option<&SharedAhead>,
    ) -> Result<Self, CommitError> {
        captured.move_indices(FIRST_INDEX, found.spaces.len());
        let spaces = found.spaces.iter().map(Part::of_space);
        let objects = found.objects.iter().map(Part::of_object);
        let parts: Vec<Part<'_>> = spaces.chain(objects).collect();
        let Some(ahead) = ahead else {
            let frozen = Frozen {
                first_frame: 0,
                packs: std::mem::take(&mut captured.packs),
                frames: std::mem::take(&mut captured.frames),
            };
            return Self::with(captured, &parts, frozen, |_| None);
        };
        let mut books = precopy::lock(ahead);
        let ids: Vec<_> = parts.iter().map(|part| (part.pid, part.books)).collect();
        let frozen = books
            .enter_delta(captured, &ids)
            .map_err(CommitError::Ahead)?;
        for frame in captured.streams.values_mut().flatten() {
            *frame = frame.saturating_add(frozen.first_frame);
        }
        let hot = |part: &Part<'_>| part.books.map(|id| books.hot(id)).unwrap_or_default();
        let hot = parts.iter().map(hot).collect();
        let tables = Self::with(captured, &parts, frozen, |part| {
            let whose = part.whose;
            let runs = books.runs(part.books?, part.present);
            Some(runs.map_err(|source| CommitError::Uncaptured { whose, source }))
        })?;
        Ok(Self { hot, ..tables })
    }

    fn with(
        captured: &mut Captured,
        parts: &[Part<'_>],
        frozen: Frozen,
        books: impl Fn(&Part<'_>) -> Option<Result<PageRuns, CommitError>>,
    ) -> Result<Self, CommitError> {
        let mut all = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            if let Some(runs) = books(part) {
                all.push(runs?);
                continue;
            }
            let whose = part.whose;
            let mut runs = PageRuns::default();
            for run in captured.spaces.remove(&index).unwrap_or_default() {
                runs.push(frozen.shifted(run))
                    .map_err(|problem| CommitError::Index { whose, problem })?;
            }
            all.push(runs);
        }
        Ok(Self {
            packs: frozen.packs,
            frames: frozen.frames,
            runs: all,
            hot: vec![Vec::new(); parts.len()],
        })
    }
}
