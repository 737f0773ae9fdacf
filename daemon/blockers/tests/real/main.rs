//! Real programs that hold what stands in the way of a checkpoint, and one that holds nothing of it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod descriptors;
mod files;
mod processes;
mod program;
mod sockets;
