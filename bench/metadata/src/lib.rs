//! Plays the metadata servers of Google, AWS and Azure, as far as the end of a machine goes, for tests,
//! demonstrations and drills. Each module says which document it is faithful to.
//!
//! What the real ones do not have are the controls, by [`Control`] or by HTTP:
//!
//! | `PUT /control/…` with the body | |
//! |---|---|
//! | `preempted` | Google: `TRUE` or `FALSE` |
//! | `maintenance-event` | Google: `NONE`, `MIGRATE_ON_HOST_MAINTENANCE`, `TERMINATE_ON_HOST_MAINTENANCE` |
//! | `unavailable` | all: `true` (503 to everybody) or `false` |
//! | `aws/instance-action` | `terminate`, `stop` or `hibernate` and the seconds until then; or nothing |
//! | `aws/rebalance` | `now`, or nothing |
//! | `aws/forget-tokens` | nothing: the tokens given out so far are not accepted any more |
//! | `azure/event` | `Preempt` (or another type), the seconds until then, and names of machines |
//! | `azure/cancel` | the id of an event; it disappears |
//! | `azure/first-call-delay` | seconds that the first call takes |
//!
//! `GET /control/azure/approved` lists the events that were approved, one a line.
#![forbid(unsafe_code)]

mod aws;
mod azure;
mod gce;
mod server;
mod state;

pub use self::{
    server::{Emulator, Wanted},
    state::{AzureEvent, Control},
};
