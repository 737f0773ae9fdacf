//! The safe wrappers against the real kernel, as root. One module per module of the library, in
//! one program, so that they share their support. What is missing on a machine fails loudly.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod fdpass;
mod maps;
mod namespace;
mod pagemap;
mod peer;
mod pidfd;
mod probe;
mod refused;
mod remote;
mod rseq;
mod spawn;
mod support;
mod tracking;
mod uffd;
mod vm;
