//! The packs, frames and page runs of a manifest: of what was captured now, and of what was saved
//! ahead of time.

use lifeboat_format::{PageRuns, frame::FrameRef, manifest::PackRef};
use lifeboat_proto::units::PageRun;

use super::{commit::CommitError, memory::Space};
use crate::{
    pipeline::Captured,
    precopy::{self, Frozen, SharedAhead},
};

/// Tables of a manifest.
#[derive(Debug)]
pub(super) struct Tables {
    pub packs: Vec<PackRef>,
    pub frames: Vec<FrameRef>,
    /// Runs of each address space.
    pub runs: Vec<PageRuns>,
    /// Pages of each that are likely to be needed first.
    pub hot: Vec<Vec<PageRun>>,
}

impl Tables {
    /// Tables of `spaces`, of which the delta, or all, was captured now. Streams in `captured` get
    /// the numbers that their frames have in the tables.
    ///
    /// # Errors
    /// When the pages do not make an index, or one is missing.
    pub(super) fn new(
        captured: &mut Captured,
        spaces: &[Space],
        ahead: Option<&SharedAhead>,
    ) -> Result<Self, CommitError> {
        let Some(ahead) = ahead else {
            let frozen = Frozen {
                first_frame: 0,
                packs: std::mem::take(&mut captured.packs),
                frames: std::mem::take(&mut captured.frames),
            };
            return Self::with(captured, spaces, frozen, |_| None);
        };
        let mut books = precopy::lock(ahead);
        let ids: Vec<_> = spaces
            .iter()
            .map(|space| (space.pid, space.books))
            .collect();
        let frozen = books
            .enter_delta(captured, &ids)
            .map_err(CommitError::Ahead)?;
        for frame in captured.streams.values_mut().flatten() {
            *frame = frame.saturating_add(frozen.first_frame);
        }
        let hot = |space: &Space| space.books.map(|id| books.hot(id)).unwrap_or_default();
        let hot = spaces.iter().map(hot).collect();
        let tables = Self::with(captured, spaces, frozen, |space| {
            let pid = space.inner_pid;
            let runs = books.runs(space.books?, &space.present);
            Some(runs.map_err(|source| CommitError::Uncaptured { pid, source }))
        })?;
        Ok(Self { hot, ..tables })
    }

    fn with(
        captured: &mut Captured,
        spaces: &[Space],
        frozen: Frozen,
        books: impl Fn(&Space) -> Option<Result<PageRuns, CommitError>>,
    ) -> Result<Self, CommitError> {
        let mut all = Vec::with_capacity(spaces.len());
        for (index, space) in spaces.iter().enumerate() {
            if let Some(runs) = books(space) {
                all.push(runs?);
                continue;
            }
            let pid = space.inner_pid;
            let mut runs = PageRuns::default();
            for run in captured.spaces.remove(&index).unwrap_or_default() {
                runs.push(frozen.shifted(run))
                    .map_err(|problem| CommitError::Index { pid, problem })?;
            }
            all.push(runs);
        }
        Ok(Self {
            packs: frozen.packs,
            frames: frozen.frames,
            runs: all,
            hot: vec![Vec::new(); spaces.len()],
        })
    }
}
