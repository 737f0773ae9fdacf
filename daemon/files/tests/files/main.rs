//! Archives of real trees, and archives that nobody should have made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod round_trip;
mod trees;
