//! The workload's files that travel with a checkpoint.
//!
//! [`archive()`] writes the preserved paths as one tar stream (POSIX pax; GNU tar can list and extract
//! it), [`extract()`] puts such a stream back. Kept: regular files, directories, symbolic links, hard
//! links, FIFOs; owner, mode, modification time in nanoseconds, extended attributes (POSIX ACLs and
//! file capabilities among them), holes, and any name that the kernel allows.
//!
//! What holds:
//! - Nothing is tolerated silently. What cannot travel is an error, or a line in
//!   [`Summary::warnings`] if the workload can do without it.
//! - Neither half follows a symbolic link below a root, and neither leaves its roots.
//! - The archive is hostile input to `extract`. It runs as the workload's own user inside the
//!   workload's mount namespace, so the kernel refuses what that user may not do; on top of that no
//!   entry can name a path outside of the allowed roots.
//! - A root is a mirror of its state at the freeze: after a success, what was not in the archive is
//!   gone from it. Nothing is removed before the whole archive has been read and found complete. A
//!   root that did not exist at the freeze stays as it is.
//! - After a failed `extract` the roots hold a mixture of old and new whole files; running it again
//!   repairs that.
//!
//! Not kept: access and change times, sockets (CRIU makes bound sockets again), file flags of
//! chattr(1), the modification time of directories that belong to somebody else (of /dev/shm, to a
//! workload that is not root's), and labels that belong to the machine (SELinux, IMA, EVM).
#![forbid(unsafe_code)]

mod archive;
mod attributes;
mod command;
mod extract;
mod item;
mod mirror;
mod pax;
mod place;
mod read;
mod roots;
mod sparse;
mod summary;
mod write;
mod xattr;

pub use archive::{ArchiveError, archive};
pub use command::{archive_main, extract_main};
pub use extract::{ExtractError, extract};
pub use read::FormatError;
pub use roots::RootError;
pub use summary::{Limits, Summary};
