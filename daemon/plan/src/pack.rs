//! How large packs are near the end.
//!
//! Large packs are best for a store's throughput. Near the end they are not: the last one of a few
//! leaves most connections idle, and one that fails must be sent again as a whole.

use std::time::Duration;

use crate::{machine::Machine, numbers::bytes};

/// Usual size of a pack, in bytes.
const PACK_BYTES_USUAL: u64 = 16 << 20;

/// Smallest size that is worth a request, in bytes.
pub const PACK_BYTES_MIN: u64 = 1 << 20;

/// Packs that are to follow each other on the whole link until the end: a failed one costs this
/// part of the time once more.
const PACKS_UNTIL_END: f64 = 32.0;

/// A pack takes the link at least this many times the latency of a request.
const LATENCIES: f64 = 2.0;

/// Size of the packs to be made from now on, in bytes: when `left` is the time in which uploads
/// must end, and `busy` the time for which the link has work.
#[must_use]
pub fn pack_bytes(machine: &Machine, left: Duration, busy: Duration) -> u64 {
    let rate = machine.link.bytes_per_second;
    let horizon = left.min(busy).as_secs_f64();
    let wanted = rate * horizon / PACKS_UNTIL_END;
    let least = rate * machine.link.latency.as_secs_f64() * LATENCIES;
    bytes(wanted.max(least)).clamp(PACK_BYTES_MIN, PACK_BYTES_USUAL)
}
