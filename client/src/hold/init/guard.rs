//! Descriptors that keep a restored workload from running on wrong memory.
//!
//! While memory is still being loaded, the daemon sends a copy of every userfaultfd. Were the
//! daemon's the last one, its death would turn missing pages into zeros; with a copy here, a process
//! that touches one waits. The hold then ends the tree.

use std::os::fd::OwnedFd;

use super::super::wire::Wire;

/// Most descriptors that are kept. A tree with more address spaces than this is as safe as before
/// for the first ones; for the rest, the daemon's death is noticed at once and the tree ended.
const GUARDED_MAX: usize = 768;

/// The descriptors, while they are needed.
#[derive(Debug, Default)]
pub(super) struct Guard {
    descriptors: Vec<OwnedFd>,
    loading: bool,
    broken: bool,
}

impl Guard {
    /// Takes the descriptors that came with a frame.
    pub(super) fn take_from(&mut self, wire: &mut Wire) {
        let room = GUARDED_MAX.saturating_sub(self.descriptors.len());
        let came = wire.take_descriptors();
        self.loading |= !came.is_empty();
        self.descriptors.extend(came.into_iter().take(room));
    }

    /// The restored tree runs, and memory is missing.
    pub(super) const fn begin(&mut self) {
        self.loading = true;
    }

    /// All memory is in.
    pub(super) fn end(&mut self) {
        self.loading = false;
        self.descriptors.clear();
    }

    /// The daemon has gone, or says that memory cannot be had. `true`: the tree cannot go on.
    pub(super) const fn give_up(&mut self) -> bool {
        self.broken |= self.loading;
        self.loading
    }

    /// Whether the tree was ended for this reason.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }
}
