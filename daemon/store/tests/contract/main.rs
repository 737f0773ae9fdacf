//! The contract of a store, for everything that needs no server of its own.

#![expect(
    clippy::unwrap_used,
    reason = "the suite is tests, which clippy cannot see"
)]
#![expect(clippy::panic, reason = "as above")]
#![expect(clippy::unused_async, reason = "all points of the suite look alike")]

mod conformance;
mod flaky;
mod gcs_fake;
mod gcs_native;
mod local;
mod probing;
mod s3_answers;
mod s3_imitation;
