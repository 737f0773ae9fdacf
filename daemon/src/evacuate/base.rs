//! What a workload has not loaded yet when it is saved again: the new checkpoint refers to the
//! frames of the one that it was restored from. Nothing is fetched for it.

use std::sync::Arc;

use lifeboat_format::{Manifest, PageRunRef, error::Problem, index::PageIndexMap};
use lifeboat_pages::{PageServer, Run};

use super::memory::Space;

/// A load under way.
#[derive(Clone, Debug)]
pub struct Loading {
    /// Serves the pages that are missing.
    pub server: Arc<PageServer>,
    /// The checkpoint that they are in.
    pub manifest: Arc<Manifest>,
}

impl Loading {
    /// Whether a process was forked while loading: what it misses cannot be told by its number, so
    /// the load must end first.
    #[must_use]
    pub fn has_forked(&self) -> bool {
        self.server.progress().forked > 0
    }

    /// Pages of a process that are not loaded yet; `None` when it is not known to the load.
    #[must_use]
    pub fn missing(&self, inner_pid: u32) -> Option<Vec<Run>> {
        self.server.unloaded(inner_pid)
    }

    /// Adds what the `spaces` miss to the manifest of their new checkpoint.
    ///
    /// # Errors
    /// The process and what is wrong with a run of it.
    pub fn add_to(&self, manifest: &mut Manifest, spaces: &[Space]) -> Result<(), (u32, Problem)> {
        let too_many = |pid| (pid, Problem::Outside);
        let shift = |pid, count: usize| u32::try_from(count).map_err(|_| too_many(pid));
        let first_frame = shift(0, manifest.frames.len())?;
        let first_pack = shift(0, manifest.packs.len())?;
        manifest.packs.extend_from_slice(&self.manifest.packs);
        let frames = self.manifest.frames.iter().map(|frame| {
            let mut frame = *frame;
            frame.pack = frame.pack.saturating_add(first_pack);
            frame
        });
        manifest.frames.extend(frames);
        for space in spaces.iter().filter(|space| !space.missing.is_empty()) {
            let pid = space.inner_pid;
            let stored = manifest
                .address_spaces
                .iter_mut()
                .find(|stored| stored.pid == pid);
            let stored = stored.ok_or_else(|| too_many(pid))?;
            let mut index = PageIndexMap::new();
            for run in &space.missing {
                let run = PageRunRef {
                    run: run.pages(),
                    frame: run.frame.saturating_add(first_frame),
                    frame_page: run.frame_page,
                };
                index.apply(run, |_| {}).map_err(|problem| (pid, problem))?;
            }
            // A page that a fault has loaded since is there twice, with the same content.
            for run in stored.runs.iter() {
                index.apply(run, |_| {}).map_err(|problem| (pid, problem))?;
            }
            stored.runs = index.to_runs();
        }
        manifest.prune();
        Ok(())
    }
}
