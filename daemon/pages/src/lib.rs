//! The page-fault server: gives restored processes their memory from verified frames.
//!
//! CRIU rebuilds the processes with empty memory and hands over a userfaultfd for each
//! ([`PageServer::add`]). From then on this crate answers their faults, and loads the rest in the
//! background.
//!
//! ```text
//!             ┌ zeros, at once ──────────────────────────────┐
//! uffd ─▶ faults ─▶ frames ─▶ fetch ─▶ source ─▶ ready ─▶ install ─▶ uffd
//!          events │  (asked)   ▲ plan   (store)   (queue)
//!                 ▼            └ hot, neighbours of faults, order of addresses
//!              missing
//! ```
//!
//! - [`faults`]: one thread; reads what the kernel tells of all processes. Never waits for the
//!   network.
//! - [`fetch`]: one task, which starts fetches; [`plan`] says what comes next, [`frames`] joins
//!   those who want the same, [`budget`] bounds the memory.
//! - [`install`]: threads that verify content and put it wherever it is missing.
//! - [`missing`]: what an address space misses while its program moves, unmaps and forks it;
//!   [`process`] has the argument why no stale byte gets into a page.
//! - [`StoreSource`]: frames from an object store.
//! - [`journal`]: what a successor needs to go on when this process is killed; [`resume`]: going on.
//!
//! # Guarantees
//!
//! - A page gets the content that was captured for it, or zeros if none was; never anything else.
//! - A page that cannot be had is never zeros: the load fails ([`PageServer::loaded`]), and who
//!   faults blocks until it is killed. Descriptors are closed by [`PageServer::finish`] when all is
//!   in, and by [`PageServer::abort`] when all processes are dead; otherwise never.
//! - Only [`lifeboat_format::frame::VerifiedFrame`]s reach a process.
//! - Memory is bounded by [`Options::memory_bytes_max`] and one bit for each captured page of each
//!   process; a part of it is kept for faults.
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
mod journal;
mod layout;
mod load;
mod mapping;
mod missing;
mod options;
mod plan;
mod process;
mod ready;
mod report;
mod resume;
mod server;
mod source;
mod space;
mod store_source;
mod sync;

pub use coalesce::{GAP_BYTES_MAX, GET_BYTES_MAX};
pub use error::{AddError, LoadError, StartError};
pub use journal::{ABOUT_BYTES_MAX, History, HistoryError, JOURNAL_BYTES_MAX, Journal};
pub use options::{DEMAND_RESERVE_BYTES, Guard, INSTALLERS_MAX, MEMORY_BYTES_MAX, Options};
pub use report::{Progress, Report};
pub use resume::{Guarded, ResumeError};
pub use server::{PageServer, Paused, StillAlive};
pub use source::{Arrived, FetchError, FrameSource, Urgency};
pub use space::{Run, SPACE_PAGES_MAX, Space, SpaceError};
pub use store_source::{GIVE_UP, Nearby, READS_MAX, StoreSource};
