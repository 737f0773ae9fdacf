//! Real processes, followed by the real kernel.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod cost;
mod events;
mod program;
mod puppet;
mod reference;
mod shadow;
mod target;
mod tree;
