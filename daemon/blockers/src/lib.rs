//! Tells, while a workload runs, what would keep it from being checkpointed or restored, and what a
//! checkpoint would change for it.
//!
//! [`inspect`] reads /proc and asks the kernel about sockets; it stops nobody and changes nothing.
//! What it reports as fatal are the refusals of CRIU 4.2, in words that say what to do; the rest is
//! lost or different after a restore. It is a forecast: what it does not know (the contents of
//! descriptors in flight, the processor's state) can still make a dump fail.
//!
//! What it reads is written by the workload, so everything is bounded: see the limits in
//! [`inspect`]'s module. A process that ends meanwhile is left out; one that may not be looked into is
//! reported.
//!
//! [`platform_mismatch`] compares the machine of a checkpoint with this one.
#![forbid(unsafe_code)]

mod blocker;
mod checks;
mod descriptors;
mod inspect;
mod maps;
mod paths;
mod platform;
mod proc;
mod process;
mod tcp;
mod unix_diag;

pub use blocker::{Blocker, Kind};
pub use inspect::{InspectError, Policy, Tcp, inspect};
pub use platform::{local_platform, platform_mismatch};
