//! Always evacuable: memory is copied to the store while its program runs, so that at a notice only
//! the last delta is left.
//!
//! ```text
//! follow ─▶ round (what was written?) ─▶ batch (read → encode → pack → upload) ─▶ Ahead (the books)
//!                                                       a save: hurry ─▶ freeze ─▶ delta + books
//! ```
//!
//! Guarantees:
//! - A page counts as saved only when the store has acknowledged the pack that it is in, and only
//!   until the tracker reports it again. Whatever is not *known* to be saved is read at the freeze.
//! - Before each commit the store is asked whether it still has every pack that the books name; if
//!   not, the books are forgotten, and everything is read anew.
//! - What fails here costs time at the freeze, never data: the pages of a batch that failed are
//!   pending again; a tracker that fails is begun anew, with nothing saved.
//! - The workload, the link and the processors are spared: see [`pace`] for the limits.

mod ahead;
mod batch;
mod follow;
mod freeze;
mod hurry;
mod objects;
mod pace;
mod saved;
mod stock;
mod stored;

pub use ahead::{Ahead, AheadError, Figures};
pub use batch::BatchError;
pub use follow::follow;
pub use freeze::{Delta, Freeze, Frozen, Uncaptured};
pub use hurry::hurry;
pub use pace::Limits;
pub(crate) use pace::{FIXED_COST, time_to_safe};
pub use stock::Stock;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// The books of a workload, shared by those who work on them in turn.
pub type SharedAhead = Arc<Mutex<Ahead>>;

/// Locks the books for a moment.
pub(crate) fn lock(ahead: &SharedAhead) -> MutexGuard<'_, Ahead> {
    ahead.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of the books in a workload: one works on them at a time.
#[derive(Debug, Default)]
pub struct Place {
    ahead: tokio::sync::Mutex<Option<SharedAhead>>,
    /// A save waits for the books: what goes on in the background ends soon.
    wanted: AtomicBool,
    /// There is no time to spare for anybody.
    hurry: AtomicBool,
    changed: Notify,
    /// Whether somebody keeps it evacuable.
    followed: AtomicBool,
}

impl Place {
    /// Takes the books for a save; the work in the background ends with the batch that it is at.
    /// Whoever has no time left may stop waiting.
    pub async fn take(&self) -> Taken<'_> {
        self.wanted.store(true, Ordering::Release);
        let mut waiting = Waiting(Some(self));
        let ahead = self.ahead.lock().await;
        waiting.0 = None;
        Taken { place: self, ahead }
    }

    fn give_back(&self) {
        self.wanted.store(false, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// From now on nothing is spared: a notice is expected.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// The danger has passed.
    pub fn relax(&self) {
        self.hurry.store(false, Ordering::Release);
    }

    /// Whether this is the first one to follow the workload.
    fn begin_to_follow(&self) -> bool {
        !self.followed.swap(true, Ordering::AcqRel)
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::Acquire)
    }
}

/// The books, in the hands of a save.
#[derive(Debug)]
pub struct Taken<'a> {
    place: &'a Place,
    ahead: tokio::sync::MutexGuard<'a, Option<SharedAhead>>,
}

impl Taken<'_> {
    /// The books, if there are any.
    #[must_use]
    pub fn ahead(&self) -> Option<&SharedAhead> {
        self.ahead.as_ref()
    }

    /// The workload is gone from here, or its books are worthless.
    pub fn forget(&mut self) {
        *self.ahead = None;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.place.give_back();
    }
}

/// A save that waits for the books.
#[derive(Debug)]
struct Waiting<'a>(Option<&'a Place>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.give_back();
        }
    }
}
