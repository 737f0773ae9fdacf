//! Drives stock CRIU: command line, image streamer, page filter, hook, images.
//!
//! Guarantees:
//! - Nothing of a dump or restore touches a file system but sockets, a pidfile, statistics and a
//!   log in a work directory; images travel through [`ImageSink`] and [`ImageSource`].
//! - A tree is killed only after [`Committing::release`]. Whatever fails before, the tree runs on.
//!   After [`Described::committing`] nobody but the daemon (or its successor, [`Pending`]) decides.
//! - CRIU is never killed by a signal: it is told to give up through its own interfaces, so that
//!   it cleans up what it did to the tree.
//! - Image files are hostile input: decoding them ([`images`]) neither panics nor allocates more
//!   than they are long.
//!
//! Modules in reading order: [`bundle`] (what is run), [`request`] (what is asked), [`image_io`]
//! (where images go and come from), [`dump`], [`restore`], [`images`] (what is inside), [`log`]
//! (what went wrong).
#![forbid(unsafe_code)]

pub mod bundle;
pub mod capture;
pub mod command;
pub mod dump;
pub mod filter;
mod gone;
mod hook;
pub mod image_io;
pub mod images;
mod lazy;
pub mod log;
pub mod request;
pub mod restore;
pub mod serve;
pub mod smaps;
mod task;
pub mod wire;

/// What the filter, the hook and this crate say to each other.
#[path = "../../preload/src/protocol.rs"]
mod protocol;

pub use bundle::{Bundle, BundleError, CriuVersion};
pub use dump::{Committing, Described, Dump, DumpDelegate, DumpError, Pending};
pub use filter::SharedObject;
pub use image_io::{ImageError, ImageReader, ImageSink, ImageSource, ImageWriter};
pub use images::ImageSet;
pub use log::{LogSummary, Refusal};
pub use request::{DumpRequest, InheritedPipe, Namespaces, RestoreRequest, TcpMode, WorkDir};
pub use restore::{LazyEvent, Rebuilt, Restore, RestoreError, Restored};
pub use smaps::Smaps;
