//! Waiting for something that happens elsewhere, with a limit.

use std::time::{Duration, Instant};

/// Time between looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `look` finds something, at most for `limit`.
///
/// # Panics
/// When it does not.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "looks at another process; there is no event to wait on"
)]
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(INTERVAL);
    }
}
