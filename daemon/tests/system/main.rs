//! The whole product, with nothing played: real daemons, real CRIU, real programs, real stores.
//!
//! Needs root, the CRIU bundle, and what `deploy/setup.sh --tests` installs; `deploy/test.sh` starts
//! the S3 server and sets the variables. A test whose needs are not met fails and says so.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;
mod takeover;

mod bad_input;
mod cycles;
mod drill;
mod evictions;
mod kill;
mod notices;
mod precopy;
mod programs;
mod races;
mod shared;
mod sharing;
mod store_faults;
mod users;
mod warm;
