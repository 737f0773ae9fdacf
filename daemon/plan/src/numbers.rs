//! Conversions between counted and calculated quantities.

use std::time::Duration;

/// Longest time that is spoken of, in seconds: a year. Rates near zero make times near infinity.
const SECONDS_MAX: f64 = 365.0 * 86_400.0;

/// A number of bytes to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "an estimate; exact below 8 PiB anyway"
)]
pub(crate) const fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// A calculated number of bytes; negative and undefined ones are zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, which is what is wanted"
)]
pub(crate) const fn bytes(value: f64) -> u64 {
    value as u64
}

/// A calculated time; negative and undefined ones are zero.
pub(crate) fn duration(seconds: f64) -> Duration {
    if seconds.is_nan() {
        return Duration::ZERO;
    }
    Duration::from_secs_f64(seconds.clamp(0.0, SECONDS_MAX))
}
