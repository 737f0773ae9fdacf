//! Which mappings are tracked.

use lifeboat_proto::units::PageRun;
use lifeboat_sys::maps::Mapping;

/// Whether a mapping is tracked: private, anonymous, not executable, not the main stack.
///
/// That is all that can be hidden from CRIU, and locked memory besides, which only the slow listing
/// tells apart: whoever captures takes the intersection with what is hidden.
#[must_use]
pub fn is_tracked(mapping: &Mapping) -> bool {
    mapping.is_private_anonymous()
        && !mapping.permissions.execute
        && !mapping.name.starts_with(b"[stack")
}

/// The tracked ones, one run for each mapping, so that each is of one mind about its registration.
pub(crate) fn tracked(mappings: &[Mapping]) -> Vec<PageRun> {
    let tracked = mappings.iter().filter(|mapping| is_tracked(mapping));
    tracked.map(|mapping| mapping.run).collect()
}
