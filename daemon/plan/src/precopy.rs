//! When to stop copying ahead and freeze.

use std::time::Duration;

use crate::{machine::Machine, need::Need, numbers::float};

/// A freeze that moves memory for less than this is short enough, in seconds.
const SHORT: f64 = 0.1;

/// Another round must leave at most this share of what it copies.
const GAIN: f64 = 0.5;

/// A round may use this share of the slack: rounds are longer than expected when the link is slower.
const SLACK_SHARE: f64 = 0.5;

/// A workload that is copied ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecopyState {
    /// Time that nothing needs ([`crate::Plan::slack`]).
    pub slack: Duration,
    /// The workload.
    pub need: Need,
}

/// Whether the workload is to be frozen now: another round would not make the freeze much shorter,
/// or there is no time for it.
#[must_use]
pub fn freeze_now(machine: &Machine, state: &PrecopyState) -> bool {
    let need = &state.need;
    let per_byte = need.seconds_per_byte(machine);
    let round = per_byte * float(need.unsaved_bytes);
    if round <= SHORT {
        return true;
    }
    // Written again during the round, and at most what can be written again.
    let written = float(need.dirty_bytes_per_second) * round;
    let rest = written.min(float(need.unsaved_bytes_max.max(need.unsaved_bytes)));
    rest > GAIN * float(need.unsaved_bytes)
        || per_byte * rest > SLACK_SHARE * state.slack.as_secs_f64()
}
