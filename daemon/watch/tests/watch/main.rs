//! Each source against a played server, and all of them together. No sleeps: what is waited for is a
//! change of the stream, with a limit.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod aws;
mod azure;
mod gce;
mod hostile;
mod latency;
#[cfg(feature = "logind")]
mod logind;
mod merging;
mod support;
