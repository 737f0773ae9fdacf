//! The page-fault server: gives restored processes their memory from verified frames.
#![forbid(unsafe_code)]

mod bits;
mod budget;
mod coalesce;
mod error;
mod faults;
mod fetch;
mod figures;
mod frames;
mod install;
mod layout;
mod load;
mod mapping;
mod missing;
mod options;
mod plan;
mod process;
mod ready;
mod report;
mod server;
mod source;
mod space;
mod store_source;
mod sync;

pub use coalesce::{GAP_BYTES_MAX, GET_BYTES_MAX};
pub use error::{AddError, LoadError, StartError};
pub use options::{DEMAND_RESERVE_BYTES, Guard, INSTALLERS_MAX, MEMORY_BYTES_MAX, Options};
pub use report::{Progress, Report};
pub use server::{PageServer, Paused, StillAlive};
pub use source::{FetchError, FrameSource, Urgency};
pub use space::{Run, SPACE_PAGES_MAX, Space, SpaceError};
pub use store_source::{GIVE_UP, READS_MAX, StoreSource};
