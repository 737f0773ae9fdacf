//! Which mappings are tracked.

use lifeboat_proto::units::PageRun;
use lifeboat_sys::{
    maps::{self, Mapping, MapsError},
    pidfd::Pidfd,
};

use crate::error::{TrackError, number};

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

/// What is to be known of the mappings of a process.
#[derive(Debug)]
pub(crate) struct Mappings {
    /// The tracked ones, ascending, one run for each: a mapping is registered as a whole or not at
    /// all.
    pub(crate) tracked: Vec<PageRun>,
    /// Whether there is the ring of an asynchronous I/O context (`io_setup(2)`).
    pub(crate) has_aio: bool,
}

/// Reads the mappings of a process.
pub(crate) fn mappings(process: &Pidfd) -> Result<Mappings, TrackError> {
    let pid = number(process);
    let all = maps::read(process.pid()).map_err(|source| match source {
        MapsError::Gone { .. } => TrackError::Gone { pid },
        source => TrackError::Maps { pid, source },
    })?;
    Ok(Mappings {
        tracked: all
            .iter()
            .filter(|one| is_tracked(one))
            .map(|one| one.run)
            .collect(),
        has_aio: all.iter().any(|one| one.name.starts_with(b"/[aio]")),
    })
}
