//! How much of what was stored is still the latest.

use crate::{frame::FrameRef, index::Displaced};

/// Pages for which a frame is the latest, counted for each frame. Packs whose frames are mostly
/// superseded are garbage that is worth re-capturing away.
#[derive(Clone, Debug, Default)]
pub struct LivePages {
    frames: Vec<u64>,
}

impl LivePages {
    /// Counts pages for which `frame` is the latest from now on.
    pub fn add(&mut self, frame: u32, pages: u64) {
        let at = frame as usize;
        if at >= self.frames.len() {
            self.frames.resize(at + 1, 0);
        }
        self.frames[at] = self.frames[at].saturating_add(pages);
    }

    /// Counts pages for which another frame is the latest from now on.
    pub fn displace(&mut self, part: Displaced) {
        if let Some(pages) = self.frames.get_mut(part.frame as usize) {
            *pages = pages.saturating_sub(part.pages);
        }
    }

    /// Live pages of a frame.
    #[must_use]
    pub fn of(&self, frame: u32) -> u64 {
        self.frames.get(frame as usize).copied().unwrap_or(0)
    }

    /// Stored bytes that are alive in each of `packs` packs: of each frame's payload the share of
    /// its pages that are alive. `frames` are the frames that were counted, by number.
    #[must_use]
    pub fn bytes_of_packs(&self, frames: &[FrameRef], packs: usize) -> Vec<u64> {
        let mut bytes = vec![0u64; packs];
        for (frame, live) in frames.iter().zip(&self.frames) {
            let all = u64::from(frame.pages()).max(1);
            if let Some(bytes) = bytes.get_mut(frame.pack as usize) {
                *bytes += u64::from(frame.stored_bytes) * (*live).min(all) / all;
            }
        }
        bytes
    }
}
