//! What is inside of CRIU's image files, as far as the daemon must know.
//!
//! Image files are hostile input (they come from an object store): every function here returns an
//! error for anything malformed, never panics, and takes no file longer than [`DECODED_BYTES_MAX`]
//! apart (decoded messages are up to forty times as large as encoded ones). Unknown fields are
//! ignored, so that images of a later patch release are read.
//!
//! - [`ImageSet`]: the files, and the questions that can be asked about them.
//! - [`limits`]: what an image may ask for, and who decides.
//! - [`shared`]: shared memory of which Lifeboat has captured pages itself.
//! - [`repair`]: what CRIU writes wrongly.
//! - [`coverage`]: the proof that every page is captured exactly once.

pub mod coverage;
mod files;
mod frame;
#[cfg(test)]
mod hostile;
pub mod limits;
mod machine;
mod memory;
pub mod pagemap;
pub mod repair;
mod set;
pub mod shared;
mod tree;

pub use files::{FileKind, OpenFile};
pub use frame::DECODED_BYTES_MAX;
pub use limits::AllowedCredentials;
pub use machine::{Clocks, CpuInfo};
pub use memory::Mapping;
pub use set::{ImageSet, ImagesError, is_kept};
pub use tree::Task;
