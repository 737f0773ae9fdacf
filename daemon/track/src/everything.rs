//! Address spaces of which nothing is known: all that they hold is dirty.

use std::time::Instant;

use lifeboat_sys::{
    pagemap::{Categories, Pagemap},
    pidfd::Pidfd,
};

use crate::{
    Last, Round, Runs,
    error::{TrackError, number, pagemap_error},
    pages, select,
};

/// A round of nothing but what is left for the end.
pub(crate) fn round(process: &Pidfd) -> Result<Round, TrackError> {
    let began = Instant::now();
    let untracked: Runs = select::mappings(process)?.tracked.into_iter().collect();
    if !process.is_alive() {
        return Err(TrackError::Gone {
            pid: number(process),
        });
    }
    Ok(Round {
        tracked_pages: untracked.pages(),
        untracked,
        took: began.elapsed(),
        ..Round::default()
    })
}

/// All that is there.
pub(crate) fn last(process: &Pidfd) -> Result<Last, TrackError> {
    let began = Instant::now();
    let mappings = select::mappings(process)?.tracked.into_iter().collect();
    let present = present(process, &mappings)?;
    Ok(Last {
        hot: Runs::new(),
        dirty: present.clone(),
        present,
        took: began.elapsed(),
    })
}

/// The pages that hold something.
pub(crate) fn present(process: &Pidfd, mappings: &Runs) -> Result<Runs, TrackError> {
    let fail = |source| pagemap_error(process, source);
    let pagemap = Pagemap::open(process.pid()).map_err(fail)?;
    let guard = pages::guard_category(&pagemap).map_err(fail)?;
    let query = pages::PRESENT.reporting(guard);
    let mut present = Runs::new();
    for mapping in mappings.as_slice() {
        pagemap
            .scan(*mapping, &query, |found| {
                if !found.categories.intersects(Categories::GUARD) {
                    present.insert(found.run);
                }
            })
            .map_err(fail)?;
    }
    Ok(present)
}
