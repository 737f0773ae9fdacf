//! Address spaces whose writes are not noted: all that they hold is dirty.

use std::time::Instant;

use lifeboat_sys::{
    maps::{self, MapsError},
    pagemap::{Categories, Pagemap, PagemapError},
    pidfd::Pidfd,
};

use crate::{Last, Round, Runs, error::TrackError, pages, select};

/// A round of nothing but what is left for the end.
pub(crate) fn round(process: &Pidfd) -> Result<Round, TrackError> {
    let began = Instant::now();
    let untracked = mappings(process)?;
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
    let pagemap = Pagemap::open(process.pid()).map_err(|source| pagemap_error(process, source))?;
    let guard = pages::guard_category(&pagemap).map_err(|source| pagemap_error(process, source))?;
    let mut present = Runs::new();
    for mapping in mappings(process)?.as_slice() {
        pagemap
            .scan(*mapping, &pages::PRESENT.reporting(guard), |found| {
                if !found.categories.intersects(Categories::GUARD) {
                    present.insert(found.run);
                }
            })
            .map_err(|source| pagemap_error(process, source))?;
    }
    Ok(Last {
        dirty: present.clone(),
        present,
        took: began.elapsed(),
    })
}

pub(crate) fn mappings(process: &Pidfd) -> Result<Runs, TrackError> {
    let pid = number(process);
    match maps::read(process.pid()) {
        Ok(mappings) => Ok(select::tracked(&mappings).into_iter().collect()),
        Err(MapsError::Gone { .. }) => Err(TrackError::Gone { pid }),
        Err(source) => Err(TrackError::Maps { pid, source }),
    }
}

pub(crate) fn pagemap_error(process: &Pidfd, source: PagemapError) -> TrackError {
    let pid = number(process);
    match source {
        PagemapError::Gone { .. } if process.is_alive() => TrackError::Replaced { pid },
        PagemapError::Gone { .. } => TrackError::Gone { pid },
        source => TrackError::Pagemap { pid, source },
    }
}

pub(crate) fn number(process: &Pidfd) -> i32 {
    process.pid().as_raw_nonzero().get()
}
