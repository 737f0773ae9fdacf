//! Holds: the small supervisors that workloads run under.
//!
//! [`spawn`] makes namespaces for a hold on a plain machine; [`bring_up`] decides between a start
//! and a restore; [`wire`] speaks the hold protocol; [`guard`] has userfaultfds kept.
//! A hold outlives the daemon: when the daemon restarts, its holds come back by themselves.

pub mod bring_up;
pub mod guard;
pub mod spawn;
pub mod stage;
pub mod wire;
