//! What was stored for a workload: packs and frames, and how much of them is still the latest.
//!
//! Superseded frames are garbage in the store. So that they stay the smaller part, the packs with
//! the least that is alive are emptied: what is alive in them is captured anew
//! ([`Stored::to_empty`]). An emptied pack is forgotten here, and deleted from the store if no
//! checkpoint names it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lifeboat_format::{frame::FrameRef, index::Displaced, live::LivePages, manifest::PackRef};
use lifeboat_proto::id::PackId;

/// Least share of the stored bytes that is kept alive, in percent.
pub(crate) const LIVE_PERCENT_MIN: u64 = 60;

/// Least number of stored bytes for which that is worth anything.
const WORTH_BYTES: u64 = 64 << 20;

/// Most bytes that are captured anew in one go.
const EMPTIED_BYTES_MAX: u64 = 256 << 20;

/// A pack is emptied after this time, whoever names it now: the checkpoint that does may be deleted,
/// and `lifeboat gc` takes a pack that nothing names for garbage some hours later
/// ([`crate::store_gc::PACK_AGE_MIN`]).
const REFRESH_AFTER: Duration = Duration::from_secs(12 * 3600);

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    packs: Vec<Pack>,
    frames: Vec<FrameRef>,
    pub(crate) live: LivePages,
    /// Packs that a committed checkpoint names.
    committed: BTreeSet<PackId>,
}

#[derive(Clone, Copy, Debug)]
struct Pack {
    pack: PackRef,
    since: Instant,
}

/// New numbers after a compaction.
pub(crate) struct Renumbered {
    frames: Vec<Option<u32>>,
}

impl Renumbered {
    pub(crate) fn frame(&self, old: u32) -> Option<u32> {
        self.frames.get(old as usize).copied().flatten()
    }
}

impl Stored {
    /// Enters new packs and frames; returns what is to be added to the numbers of these frames.
    pub(crate) fn enter(&mut self, packs: &[PackRef], frames: &[FrameRef]) -> u32 {
        let first_pack = u32::try_from(self.packs.len()).expect("packs are large");
        let first_frame = u32::try_from(self.frames.len()).expect("frames are large");
        let since = Instant::now();
        self.packs
            .extend(packs.iter().map(|pack| Pack { pack: *pack, since }));
        self.frames.extend(frames.iter().map(|frame| FrameRef {
            pack: frame.pack + first_pack,
            ..*frame
        }));
        first_frame
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = PackRef> + '_ {
        self.packs.iter().map(|one| one.pack)
    }

    pub(crate) fn frames(&self) -> &[FrameRef] {
        &self.frames
    }

    pub(crate) fn displace(&mut self, part: Displaced) {
        self.live.displace(part);
    }

    /// A checkpoint names these packs, or may do so: from now on they are the collector's to delete.
    pub(crate) fn commit(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.committed.extend(packs);
    }

    /// Packs that no checkpoint names.
    pub(crate) fn unnamed(&self) -> Vec<PackId> {
        let ids = self.packs.iter().map(|one| one.pack.id);
        ids.filter(|id| !self.committed.contains(id)).collect()
    }

    /// Stored bytes, and those of them that are alive.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let all = self.packs.iter().map(|one| one.pack.size_bytes).sum();
        let live = self.live.bytes_of_packs(&self.frames, self.packs.len());
        (all, live.iter().sum())
    }

    /// Frames whose live pages are to be captured anew, if too little of what is stored is alive, or
    /// a pack is about to be taken for garbage.
    pub(crate) fn to_empty(&self, now: Instant) -> BTreeSet<u32> {
        let live = self.live.bytes_of_packs(&self.frames, self.packs.len());
        let (mut stored, alive) = (
            self.packs
                .iter()
                .map(|one| one.pack.size_bytes)
                .sum::<u64>(),
            live.iter().sum::<u64>(),
        );
        let is_old = |pack: &Pack| now.saturating_duration_since(pack.since) > REFRESH_AFTER;
        let mut order: Vec<usize> = (0..self.packs.len()).collect();
        // Old ones first, then those with the least to move for what it frees.
        order.sort_by_key(|at| {
            let pack = &self.packs[*at];
            let share = live[*at].saturating_mul(1000) / pack.pack.size_bytes.max(1);
            (!is_old(pack), share)
        });
        let mut moved = 0;
        let mut emptied = BTreeSet::new();
        for at in order {
            let pack = &self.packs[at];
            let enough =
                stored < WORTH_BYTES || alive.saturating_mul(100) >= stored * LIVE_PERCENT_MIN;
            if (enough && !is_old(pack)) || moved >= EMPTIED_BYTES_MAX {
                break;
            }
            moved += live[at];
            stored -= pack.pack.size_bytes.saturating_sub(live[at]);
            emptied.insert(at);
        }
        let frames = (0..).zip(&self.frames);
        frames
            .filter(|(number, frame)| {
                emptied.contains(&(frame.pack as usize)) && self.live.of(*number) > 0
            })
            .map(|(number, _)| number)
            .collect()
    }

    /// Forgets packs in which nothing is alive, and the frames that are superseded, if that is worth
    /// it. Returns the new numbers, and the packs that nothing names any more.
    pub(crate) fn compact(&mut self) -> Option<(Renumbered, Vec<PackId>)> {
        let mut used = vec![false; self.packs.len()];
        let mut kept = 0;
        for (number, frame) in (0..).zip(&self.frames) {
            if self.live.of(number) > 0 {
                used[frame.pack as usize] = true;
                kept += 1;
            }
        }
        let is_worth_it = used.contains(&false) || kept * 2 < self.frames.len();
        if !is_worth_it {
            return None;
        }
        let mut new_packs = Vec::with_capacity(self.packs.len());
        let mut dead = Vec::new();
        let mut numbers = Vec::with_capacity(self.packs.len());
        for (pack, used) in self.packs.iter().zip(&used) {
            numbers.push(u32::try_from(new_packs.len()).expect("packs are large"));
            if *used {
                new_packs.push(*pack);
            } else if !self.committed.contains(&pack.pack.id) {
                dead.push(pack.pack.id);
            }
        }
        let mut frames = Vec::with_capacity(kept);
        let mut live = LivePages::default();
        let mut renumbered = vec![None; self.frames.len()];
        for (number, frame) in (0..).zip(&self.frames) {
            let pages = self.live.of(number);
            if pages == 0 {
                continue;
            }
            let new = u32::try_from(frames.len()).expect("frames are large");
            renumbered[number as usize] = Some(new);
            live.add(new, pages);
            frames.push(FrameRef {
                pack: numbers[frame.pack as usize],
                ..*frame
            });
        }
        let known: BTreeSet<PackId> = new_packs.iter().map(|one| one.pack.id).collect();
        self.committed.retain(|id| known.contains(id));
        self.packs = new_packs;
        self.frames = frames;
        self.live = live;
        Some((Renumbered { frames: renumbered }, dead))
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_format::{codec::Codec, seal::Seal};

    use super::*;

    const FRAME: u32 = 256 << 10;

    /// `packs` packs of 64 frames, in each of which `alive` pages of 64 are alive.
    fn stored(packs: u8, alive: u64) -> Stored {
        let mut stored = Stored::default();
        for pack in 0..packs {
            let frames: Vec<FrameRef> = (0..64)
                .map(|frame| FrameRef {
                    pack: 0,
                    offset: 16 + u64::from(FRAME) * frame,
                    stored_bytes: FRAME,
                    raw_bytes: FRAME,
                    codec: Codec::Raw,
                    digest: Seal::plain().frame_digest(&[]),
                })
                .collect();
            let id = PackId([pack; 16]);
            let size_bytes = 64 * u64::from(FRAME);
            let first = stored.enter(&[PackRef { id, size_bytes }], &frames);
            (first..first + 64).for_each(|frame| stored.live.add(frame, alive));
        }
        stored
    }

    #[test]
    fn nothing_is_moved_while_most_is_alive() {
        assert!(stored(8, 64).to_empty(Instant::now()).is_empty());
        assert!(stored(8, 40).to_empty(Instant::now()).is_empty());
    }

    #[test]
    fn packs_with_the_least_alive_are_emptied_first_until_enough_is_alive() {
        let mut all = stored(8, 64);
        // The fifth and the seventh pack lose nearly all.
        for frame in (4 * 64..5 * 64).chain(6 * 64..7 * 64) {
            all.displace(Displaced { frame, pages: 63 });
        }
        for frame in (0..64).chain(64..128) {
            all.displace(Displaced { frame, pages: 50 });
        }
        let emptied = all.to_empty(Instant::now());
        // 71.5 MiB of 128 MiB are alive; without the fifth pack it is enough.
        assert_eq!(emptied, (4 * 64..5 * 64).collect());
    }

    #[test]
    fn a_pack_is_not_kept_only_in_the_books_until_it_counts_as_garbage() {
        let later = Instant::now() + REFRESH_AFTER + Duration::from_secs(1);
        let mut all = stored(2, 64);
        assert_eq!(all.to_empty(later).len(), 128);
        // The checkpoint may be deleted any time.
        all.commit([PackId([0; 16]), PackId([1; 16])]);
        assert_eq!(all.to_empty(later).len(), 128);
        assert!(all.to_empty(Instant::now()).is_empty());
    }

    #[test]
    fn dead_packs_are_forgotten_and_the_rest_keeps_its_order() {
        let mut all = stored(3, 64);
        all.commit([PackId([2; 16])]);
        for frame in (0..64).chain(128..192) {
            all.displace(Displaced { frame, pages: 64 });
        }
        let (numbers, dead) = all.compact().unwrap();
        assert_eq!(dead, [PackId([0; 16])]);
        assert_eq!(numbers.frame(63), None);
        assert_eq!(numbers.frame(64), Some(0));
        assert_eq!(all.frames().len(), 64);
        assert!(all.frames().iter().all(|frame| frame.pack == 0));
        assert_eq!(all.live.of(0), 64);
        assert!(all.compact().is_none());
    }
}
