//! Points in time that somebody else writes.

use std::time::{Duration, SystemTime};

/// A deadline that has passed, or nearly, still leaves this long: the machine is still there, and trying
/// is better than not.
pub(crate) const REMAINING_MIN: Duration = Duration::from_secs(5);

/// Deadlines farther away than this are taken for this far.
pub(crate) const REMAINING_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A time as RFC 3339 (`2026-01-01T00:00:00Z`) or RFC 1123 (`Thu, 01 Jan 2026 00:00:00 GMT`).
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    // `humantime` also takes what has no zone; clouds always write one, so this is UTC in any case.
    humantime::parse_rfc3339_weak(text)
        .ok()
        .or_else(|| httpdate::parse_http_date(text).ok())
}

/// How long it is from `now` until `at`, within [`REMAINING_MIN`] and [`REMAINING_MAX`].
pub(crate) fn remaining(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now)
        .unwrap_or_default()
        .clamp(REMAINING_MIN, REMAINING_MAX)
}
