//! Start or restore? A pure function of the head and of what the hold wants.

use lifeboat_format::head::{Head, HeadState, LatestManifest};

/// What a hold wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Identity of the hold.
    pub owner: String,
    /// User who runs the hold.
    pub uid: u32,
    /// Never restore.
    pub fresh: bool,
    /// Take over from an owner that has not let go.
    pub take_over: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start the command.
    Start {
        /// Why, for people.
        reason: &'static str,
    },
    /// Restore a checkpoint.
    Restore {
        /// Which.
        latest: LatestManifest,
    },
}

/// Decides for a workload that may be claimed (see `wait`).
#[must_use]
pub fn decide(wish: &Wish, present: Option<&Head>) -> Decision {
    let start = |reason| Decision::Start { reason };
    let Some(head) = present else {
        return start("the workload is new");
    };
    if wish.fresh {
        return start("a fresh start was asked for");
    }
    match (head.state, head.latest) {
        (HeadState::Finished, _) => start("the workload had ended by itself"),
        (_, None) => start("the workload has no checkpoint"),
        (_, Some(latest)) => Decision::Restore { latest },
    }
}
