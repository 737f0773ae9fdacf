//! Which pages of a running process tree were written since they were last captured: from outside,
//! on unmodified programs.
#![forbid(unsafe_code)]

mod error;
mod everything;
mod options;
mod pages;
mod round;
mod runs;
mod select;
mod space;
mod tree;

pub use error::TrackError;
pub use options::Options;
pub use round::{Last, Round};
pub use runs::Runs;
pub use select::is_tracked;
pub use space::{ROUND_RUNS_MAX, Tracker};
pub use tree::{Mode, SpaceId, SpaceLast, SpaceRound, TreeError, TreeRound, TreeTracker};
