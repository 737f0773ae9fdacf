//! Shared memory in the books.
//!
//! What a process writes through its own mapping shows only in its own page tables; what is written
//! by write(2), or punched out, in none (memfds tell nobody: inotify(7) is silent about them, and
//! their times change with every first write to a page as well). So no page of an object is ever
//! *known* to be clean: at the freeze all of an object is read, and compared by hash with what is
//! stored; only what differs is sent. In the background the same happens now and then, so that little
//! differs. New pages are sent as soon as they are seen.
//!
//! An object that is looked at is held open: memory that the workload has dropped meanwhile is not
//! freed before the next look ([`LOOK_EVERY`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_proto::units::PAGE_SIZE;
use lifeboat_sys::shmem::{ObjectKey, Objects, SharedObject, ShmemError};
use lifeboat_track::{Runs, SpaceId};
use rustix::process::Pid;

use super::{Ahead, saved::Saved};
use crate::observe::chain;

/// Least time between looks what objects there are and which pages they have.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A look is so many times shorter than the time until the next one.
const LOOK_SHARE: u32 = 100;

/// Least time between comparisons of what is stored with what is there.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Longest time that reading and hashing a page takes; so long is the processor's time that a
/// comparison costs, of which it may take one part in [`LOOK_SHARE`].
const CHECK_COST: Duration = Duration::from_micros(2);

/// Spaces from here on are objects.
const FIRST_SPACE: u64 = 1 << 62;

/// The objects of a tree.
#[derive(Debug, Default)]
pub(super) struct SharedBooks {
    ids: BTreeMap<ObjectKey, SpaceId>,
    next: u64,
    /// When the next look is due.
    look_at: Option<Instant>,
    /// When the next comparison is due.
    check_at: Option<Instant>,
}

impl Ahead {
    /// Looks at the shared memory of these processes, if that is due. What cannot be looked at is
    /// read at the freeze.
    pub(super) fn look_at_objects(&mut self, pids: &[Pid]) {
        let began = Instant::now();
        if self.shared.look_at.is_some_and(|at| at > began) {
            return;
        }
        if let Err(error) = self.look(pids) {
            let error = chain(&error);
            tracing::debug!(error, "shared memory is not copied ahead of time");
            self.forget_objects(|_| true);
        }
        let rest = began.elapsed().saturating_mul(LOOK_SHARE).max(LOOK_EVERY);
        self.shared.look_at = Some(began + rest);
        if self.shared.check_at.is_none_or(|at| at <= began) {
            self.check_objects();
        }
    }

    fn look(&mut self, pids: &[Pid]) -> Result<(), ShmemError> {
        let mut objects = Objects::new()?;
        for pid in pids {
            objects.add_process(*pid)?;
        }
        let mut seen = BTreeSet::new();
        for object in objects.into_objects() {
            let present: Runs = object.present()?.into_iter().collect();
            let id = self.id_of(object);
            seen.insert(id);
            if let Some(saved) = self.spaces.get_mut(&id) {
                saved.note_present(&present, &mut self.stored);
            }
        }
        self.forget_objects(|id| !seen.contains(&id));
        Ok(())
    }

    /// The books of an object, begun if there are none.
    fn id_of(&mut self, object: SharedObject) -> SpaceId {
        let key = object.key();
        let known = self.shared.ids.get(&key).copied();
        known.unwrap_or_else(|| {
            let id = SpaceId(FIRST_SPACE + self.shared.next);
            self.shared.next += 1;
            self.shared.ids.insert(key, id);
            let saved = Saved::of_object(Arc::new(object));
            self.spaces.insert(id, saved);
            id
        })
    }

    fn forget_objects(&mut self, is_forgotten: impl Fn(SpaceId) -> bool) {
        let (spaces, stored) = (&mut self.spaces, &mut self.stored);
        self.shared.ids.retain(|_, id| {
            let stays = !is_forgotten(*id);
            if !stays && let Some(mut ended) = spaces.remove(id) {
                ended.end(stored);
            }
            stays
        });
    }

    /// All that is stored of shared memory is to be compared with what is there.
    pub(super) fn check_objects(&mut self) {
        let mut pages = 0;
        for id in self.shared.ids.values() {
            if let Some(saved) = self.spaces.get_mut(id) {
                saved.check_all();
                pages += saved.unchecked.pages();
            }
        }
        let cost = CHECK_COST.saturating_mul(u32::try_from(pages).unwrap_or(u32::MAX));
        let rest = cost.saturating_mul(LOOK_SHARE).max(CHECK_EVERY);
        self.shared.check_at = Instant::now().checked_add(rest);
    }

    /// Bytes that are still to be compared.
    pub(super) fn unchecked_bytes(&self) -> u64 {
        let pages = self.spaces.values().map(|one| one.unchecked.pages());
        pages.sum::<u64>() * PAGE_SIZE
    }

    /// The books of an object, against which all of it is to be compared at the freeze.
    #[must_use]
    pub fn object(&self, key: ObjectKey) -> Option<SpaceId> {
        self.shared.ids.get(&key).copied()
    }
}
