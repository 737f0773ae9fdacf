//! What is inside of CRIU's image files, as far as the daemon must know.
//!
//! Image files are hostile input (they come from an object store): every function here returns an
//! error for anything malformed, and allocates no more than a small multiple of what it is given.

mod frame;
pub mod pagemap;
mod set;

pub use set::{AllowedCredentials, ImageSet, ImagesError, Mapping, Task, is_kept};
