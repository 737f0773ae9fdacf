//! Off this machine: from the call to a committed checkpoint.
//!
//! ```text
//! hurry ─▶ freeze+describe (CRIU) ─▶ delta through the pipeline ─▶ prove ─▶ commit ─▶ release
//! ```
//!
//! Guarantees:
//! - The workload is killed only after the store has acknowledged the commit. Whatever fails
//!   before, the workload runs on, and [`SaveError`] says why.
//! - The manifest is written after all its packs were acknowledged, once, create-only; the head
//!   points to it only after that.
//! - When the answer to the commit is lost, the tree stays frozen until it is known
//!   ([`commit::Outcome`]); when this daemon dies meanwhile, its successor finds out ([`recover`]).
//!
//! A checkpoint that lets the workload run on takes the same way, but releases it as soon as all
//! of its memory was read.

pub mod audit;
pub mod base;
pub mod commit;
pub mod describe;
pub mod files;
pub mod memory;
pub mod objects;
mod orders;
pub mod outcomes;
pub mod proof;
pub mod recover;
mod rehearse;
pub mod report;

mod save;
mod tables;

pub use orders::{Order, Orders};
pub use save::{Mode, Save, SaveError};
