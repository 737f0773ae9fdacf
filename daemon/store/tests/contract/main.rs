//! The contract of a store, for everything that needs no server of its own.

mod conformance;
mod local;
mod s3_imitation;
