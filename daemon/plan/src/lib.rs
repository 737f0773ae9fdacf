//! What is saved before a deadline, in which order and how.
//!
//! Everything here is a pure function of measured values: no clock, no I/O, no threads. The caller
//! measures ([`Ewma`], [`Throughput`], [`CodecEstimator`]), asks ([`plan`], [`best_mix_ahead`],
//! [`freeze_now`], [`pack_bytes`], [`Steady::of`]), acts, and asks again a few hundred milliseconds
//! later with what has become of it.
//!
//! # The model
//!
//! A workload is *described* (CRIU stops the tree and writes down what it is), *moved* (memory is
//! read, encoded and uploaded) and *committed*. Describing and committing take their time whatever
//! else goes on. Moving needs the two things that all workloads share: encoding threads and the
//! link. With the best mix of codecs for both ([`best_mix`]) a byte takes a certain time of the
//! whole machine, so the work of a workload is a number of seconds, and workloads that move at the
//! same time share them equally.
//!
//! # What a plan guarantees
//!
//! - Nothing is admitted whose upload would end within the [`reserve`] before the deadline.
//! - Priority first: what is admitted of a priority does not depend on lower ones. Within a
//!   priority the smallest come first, which saves the most workloads before a common deadline.
//! - More time never admits less (compared by priority, highest first).
//! - A workload that cannot make it is told with figures ([`Verdict::TooLate`]); it is looked at again
//!   with every plan, and started after all if it turns out to fit.

#![forbid(unsafe_code)]

mod admit;
mod chooser;
mod codec;
mod estimate;
mod machine;
mod model;
mod need;
mod numbers;
mod pack;
mod plan;
mod precopy;
mod steady;

pub use chooser::{CodecEstimator, Dither, EXPLORE_EVERY};
pub use codec::{Codec, Cost, Costs, Mix, Resources, best_mix, best_mix_ahead};
pub use estimate::{Ewma, Throughput};
pub use machine::{Link, Machine, reserve};
pub use model::{Outlook, predict};
pub use need::{Need, Progress};
pub use pack::{PACK_BYTES_MIN, pack_bytes};
pub use plan::{Plan, Situation, Step, Verdict, plan};
pub use precopy::{PrecopyState, freeze_now};
pub use steady::{Steady, steady_unsaved};
