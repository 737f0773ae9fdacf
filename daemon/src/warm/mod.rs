//! Packs kept on this node for restores to come.
//!
//! Guarantees:
//! - Never more than the limit that was set, however many workloads are prefetched. A prefetch may
//!   drop what no workload's prefetched checkpoint names, nothing else.
//! - A pack is here whole or not at all, and only if it was what its id says when it came. A restore
//!   verifies what it reads all the same; a pack that turns out to be damaged is dropped.
//! - Without room, or without the folder, a restore reads from the store, as ever.
//!
//! Packs never change, so that a newer checkpoint needs only those that the older one did not have.

pub mod fetch;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use lifeboat_format::Manifest;
use lifeboat_pages::Nearby;
use lifeboat_proto::id::{CheckpointId, PackId, WorkloadName};

/// Prefix of files that are being written.
const UNFINISHED: &str = ".new-";

/// The packs.
#[derive(Debug)]
pub struct Warm {
    folder: PathBuf,
    limit: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Size of each pack that is here.
    packs: BTreeMap<PackId, u64>,
    /// Bytes that are here, or have room kept for them.
    bytes: u64,
    /// What was prefetched last of each workload.
    wanted: BTreeMap<WorkloadName, Wanted>,
}

#[derive(Debug)]
struct Wanted {
    checkpoint: CheckpointId,
    uid: u32,
    packs: Vec<(PackId, u64)>,
}

/// A checkpoint of which something is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The workload.
    pub workload: WorkloadName,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Whose it is.
    pub uid: u32,
    /// Bytes of its packs that are here.
    pub warm_bytes: u64,
    /// Bytes of all its packs.
    pub total_bytes: u64,
}

/// Room for a pack; given back when dropped.
#[derive(Debug)]
pub struct Room {
    warm: Arc<Warm>,
    pack: PackId,
    bytes: u64,
}

impl Warm {
    /// What is in `folder`, of which at most `limit` bytes are used.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: PathBuf, limit: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let mut held = Held::default();
        for file in fs::read_dir(&folder)? {
            let file = file?;
            let size = file.metadata()?.len();
            match id(&file.file_name().to_string_lossy()) {
                Some(pack) if held.bytes.saturating_add(size) <= limit => {
                    held.bytes += size;
                    held.packs.insert(pack, size);
                }
                // Unfinished, or more than there is room for now.
                _ => fs::remove_file(file.path())?,
            }
        }
        Ok(Self {
            folder,
            limit,
            held: Mutex::new(held),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, pack: PackId) -> PathBuf {
        self.folder.join(pack.to_hex())
    }

    /// From now on this checkpoint is what is to be here of its workload. Returns its packs that are
    /// not here, those that a restore needs first at the beginning.
    #[must_use]
    pub fn want(&self, manifest: &Manifest) -> Vec<(PackId, u64)> {
        let packs = in_order(manifest);
        let mut held = self.held();
        held.wanted.insert(
            manifest.workload.clone(),
            Wanted {
                checkpoint: manifest.checkpoint,
                uid: manifest.spec.uid,
                packs: packs.clone(),
            },
        );
        packs
            .into_iter()
            .filter(|(pack, _)| !held.packs.contains_key(pack))
            .collect()
    }

    /// Makes room for a pack. `None`: there is none.
    pub fn room(self: &Arc<Self>, pack: PackId, bytes: u64) -> Option<Room> {
        let mut held = self.held();
        while held.bytes.saturating_add(bytes) > self.limit {
            let wanted = |pack: &PackId| {
                let mut all = held.wanted.values().flat_map(|one| &one.packs);
                all.any(|(wanted, _)| wanted == pack)
            };
            let unwanted = held.packs.keys().copied().find(|pack| !wanted(pack))?;
            self.drop_pack(&mut held, unwanted);
        }
        held.bytes += bytes;
        Some(Room {
            warm: Arc::clone(self),
            pack,
            bytes,
        })
    }

    fn drop_pack(&self, held: &mut Held, pack: PackId) {
        if let Some(bytes) = held.packs.remove(&pack) {
            held.bytes -= bytes;
            if let Err(error) = fs::remove_file(self.path(pack)) {
                tracing::warn!(pack = %pack.to_hex(), %error, "cannot remove a prefetched pack");
            }
        }
    }

    /// What is here.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let held = self.held();
        let here = |(pack, _): &&(PackId, u64)| held.packs.contains_key(pack);
        let size = |(_, bytes): &(PackId, u64)| *bytes;
        let shown = held.wanted.iter().map(|(workload, wanted)| Shown {
            workload: workload.clone(),
            checkpoint: wanted.checkpoint,
            uid: wanted.uid,
            warm_bytes: wanted.packs.iter().filter(here).map(size).sum(),
            total_bytes: wanted.packs.iter().map(size).sum(),
        });
        shown.collect()
    }

    /// A workload runs here now: what was prefetched for it may make room.
    pub fn forget(&self, workload: &WorkloadName) {
        self.held().wanted.remove(workload);
    }

    /// What is here of one workload.
    #[must_use]
    pub fn shown_of(&self, workload: &WorkloadName) -> Option<Shown> {
        let mut all = self.shown().into_iter();
        all.find(|one| one.workload == *workload)
    }
}

impl Room {
    /// Keeps the pack, which is `bytes`. Blocks.
    ///
    /// # Errors
    /// When it cannot be written, or has another size than the room.
    pub fn keep(mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 != self.bytes {
            return Err(io::Error::other("the pack has another size than expected"));
        }
        let unfinished = self
            .warm
            .folder
            .join(format!("{UNFINISHED}{}", self.pack.to_hex()));
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, self.warm.path(self.pack))?;
        let mut held = self.warm.held();
        // Kept by two at once: it counts once.
        if let Some(before) = held.packs.insert(self.pack, self.bytes) {
            held.bytes -= before;
        }
        self.bytes = 0;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.warm.held().bytes -= self.bytes;
    }
}

impl Nearby for Warm {
    fn read(&self, pack: PackId, offset: u64, bytes: u64) -> Option<Bytes> {
        if !self.held().packs.contains_key(&pack) {
            return None;
        }
        let file = fs::File::open(self.path(pack)).ok()?;
        let mut buffer = vec![0; usize::try_from(bytes).ok()?];
        file.read_exact_at(&mut buffer, offset).ok()?;
        Some(buffer.into())
    }

    fn damaged(&self, pack: PackId) {
        let mut held = self.held();
        if held.packs.contains_key(&pack) {
            tracing::warn!(pack = %pack.to_hex(), "a prefetched pack is not what was written");
            self.drop_pack(&mut held, pack);
        }
    }
}

fn id(name: &str) -> Option<PackId> {
    PackId::try_from(hex::decode(name).ok()?.as_slice()).ok()
}

/// The packs of a checkpoint: what a restore needs before anything runs, then the hot pages, then the
/// rest.
fn in_order(manifest: &Manifest) -> Vec<(PackId, u64)> {
    let files = manifest.image_files.iter().flat_map(|file| &file.frames);
    let files = files.chain(manifest.files.iter().flat_map(|files| &files.frames));
    let hot = manifest.address_spaces.iter().flat_map(|space| {
        let runs = space.runs.iter();
        let hot = |run: &lifeboat_format::PageRunRef| {
            let after = space
                .hot
                .iter()
                .filter(|hot| hot.intersection(run.run).is_some());
            after.count() > 0
        };
        runs.filter(hot).map(|run| run.frame)
    });
    let frames = files.copied().chain(hot);
    let first = frames.filter_map(|frame| manifest.frames.get(frame as usize));
    let mut order: Vec<usize> = first.map(|frame| frame.pack as usize).collect();
    order.extend(0..manifest.packs.len());
    let mut seen = vec![false; manifest.packs.len()];
    order.retain(|pack| {
        let seen = seen.get_mut(*pack);
        seen.is_some_and(|seen| !std::mem::replace(seen, true))
    });
    let pack = |at: usize| (manifest.packs[at].id, manifest.packs[at].size_bytes);
    order.into_iter().map(pack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PackId = PackId([1; 16]);
    const B: PackId = PackId([2; 16]);
    const C: PackId = PackId([3; 16]);

    fn warm(folder: &tempfile::TempDir, limit: u64) -> Arc<Warm> {
        Arc::new(Warm::open(folder.path().join("warm"), limit).unwrap())
    }

    fn want(warm: &Warm, workload: &str, packs: &[PackId]) {
        let wanted = Wanted {
            checkpoint: CheckpointId::new(),
            uid: 0,
            packs: packs.iter().map(|pack| (*pack, 10)).collect(),
        };
        warm.held().wanted.insert(workload.parse().unwrap(), wanted);
    }

    fn keep(warm: &Arc<Warm>, pack: PackId) -> bool {
        let room = warm.room(pack, 10);
        room.is_some_and(|room| room.keep(&[pack.0[0]; 10]).is_ok())
    }

    #[test]
    fn the_limit_holds_and_only_what_nobody_wants_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let warm = warm(&folder, 25);
        want(&warm, "one", &[A, B]);
        assert!(keep(&warm, A) && keep(&warm, B));
        assert_eq!(warm.read(B, 3, 4).as_deref(), Some(&[2; 4][..]));
        assert!(!keep(&warm, C), "there is no room");
        want(&warm, "one", &[B, C]);
        assert!(keep(&warm, C), "the older checkpoint makes room");
        assert_eq!(warm.read(A, 0, 1), None);
        let shown = warm.shown_of(&"one".parse().unwrap()).unwrap();
        assert_eq!((shown.warm_bytes, shown.total_bytes), (20, 20));
        drop(warm.room(A, 5).unwrap());
        assert_eq!(warm.held().bytes, 20);
    }

    #[test]
    fn a_successor_finds_what_is_whole_and_no_more_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let before = warm(&folder, 100);
        assert!(keep(&before, A) && keep(&before, B));
        fs::write(before.folder.join(".new-x"), "half").unwrap();
        drop(before);
        let after = warm(&folder, 15);
        assert_eq!(after.held().packs.len(), 1);
        assert_eq!(fs::read_dir(&after.folder).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_pack_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let warm = warm(&folder, 25);
        assert!(keep(&warm, A));
        warm.damaged(A);
        assert_eq!(warm.read(A, 0, 1), None);
        assert!(!warm.path(A).exists());
        assert_eq!(warm.held().bytes, 0);
    }
}
