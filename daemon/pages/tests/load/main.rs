//! The page server against real processes: a program (`target.c`) whose memory it loads, which
//! knows what every byte must be.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod contract;
mod figures;
mod random;
mod source;
mod store;
mod support;
mod takeover;
mod target;
