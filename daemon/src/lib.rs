//! The node-local daemon of Lifeboat.
//!
//! Read in this order: [`daemon`] (life cycle), [`service`] (who asks), [`claim`] (who has the right
//! to commit), [`pipeline`] (memory into the store), [`precopy`] (ahead of time), [`evacuate`] (off the
//! machine), [`restore`] (back). `daemon/ARCHITECTURE.md` has the
//! picture and the invariants.
#![forbid(unsafe_code)]

pub mod check;
pub mod claim;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod deadline;
pub mod drill;
pub mod evacuate;
pub mod hold;
pub mod journal;
pub mod observe;
pub mod pipeline;
pub mod platform;
pub mod precopy;
pub mod reshare;
pub mod restore;
pub mod service;
pub mod store_gc;
pub mod warm;
pub mod watch;
pub mod workload;
