//! What Lifeboat stores, as pure functions: no I/O, no clocks, no randomness.
//!
//! - [`codec`]: compression of frames; [`seal`]: digests, with or without a store key.
//! - [`frame`]: the unit of reading. Its types are the proof that bytes were verified.
//! - [`pack`]: the unit of writing: an object of many frames and its directory.
//! - [`manifest`]: everything needed to restore one checkpoint; [`head`]: a workload's root.
//! - [`runs`] and [`index`]: where each page is stored; [`live`]: what of it is not superseded.
//! - [`keys`]: the names of objects.
//!
//! Everything read is hostile until a digest says otherwise, and still checked afterwards: any
//! truncation and any changed bit is a [`error::FormatError`], never a panic and never other
//! content. `proto/FORMAT.md` describes the bytes.
#![forbid(unsafe_code)]

pub mod codec;
mod envelope;
pub mod error;
pub mod frame;
pub mod head;
pub mod index;
pub mod keys;
mod limits;
pub mod live;
pub mod manifest;
pub mod owner;
pub mod pack;
pub mod runs;
pub mod seal;
mod text;

pub use codec::{Codec, Decoder, Effort, Encoder, is_zero_page};
pub use error::FormatError;
pub use frame::{
    FRAME_BYTES_MAX, FRAME_PAGES_MAX, FrameRef, SealedFrame, StoredFrame, VerifiedFrame,
};
pub use head::{Head, HeadState, LatestManifest};
pub use index::{Displaced, PageIndexMap};
pub use live::LivePages;
pub use manifest::Manifest;
pub use owner::FrameOwner;
pub use pack::{PackBuilder, PackDirectory, PackOrigin};
pub use runs::{PageRunRef, PageRuns};
pub use seal::{Digest, Seal, StoreKey};

/// Version of the format that is written. Raised when old readers could not read new objects.
pub const FORMAT_VERSION: u16 = 1;

/// Oldest version that is read: the one before [`FORMAT_VERSION`], when there is one.
pub const FORMAT_VERSION_OLDEST: u16 = 1;
