//! Which pages of a running process tree were written since they were last captured: from outside,
//! on unmodified programs.
#![forbid(unsafe_code)]

mod contents;
mod error;
mod everything;
mod hashes;
mod hazard;
mod heat;
mod member;
mod options;
mod pace;
mod pages;
mod round;
mod runs;
mod select;
mod space;
mod tree;

pub use contents::{ContentHash, Contents};
pub use error::TrackError;
pub use hazard::{ASYNC_SETTLES, DESCRIPTORS_MAX, DIRECT_SETTLES, THREADS_MAX};
pub use heat::{HOT_RUNS_MAX, RETRY_ROUNDS};
pub use options::Options;
pub use pace::{Budget, Cost, FAULT_COST};
pub use round::{Last, Round};
pub use runs::Runs;
pub use select::is_tracked;
pub use space::Tracker;
pub use tree::{
    ATTACHING_MAX, Mode, SpaceId, SpaceLast, SpaceRound, TreeError, TreeRound, TreeTracker,
};
