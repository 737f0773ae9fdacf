//! The questions that are asked about pages.

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::pagemap::{Categories, Pagemap, PagemapError, Query};

const HELD: Categories = Categories::PRESENT.union(Categories::SWAPPED);

/// Pages that hold something other than zeros. Unlike [`Query::DUMPABLE`] it does not ask whether
/// they belong to a file, which no page of an anonymous mapping does, and which costs a cache miss
/// for each.
pub(crate) const PRESENT: Query = Query {
    inverted: Categories::PFNZERO,
    all: Categories::PFNZERO,
    any: HELD,
    report: Categories::NONE,
};

/// Pages that are protected.
pub(crate) const PROTECTED: Query = Query {
    inverted: Categories::WRITTEN,
    all: Categories::WRITTEN,
    any: HELD,
    report: Categories::NONE,
};

/// A page that is never mapped, for questions about the address space itself.
pub(crate) const NOWHERE: PageRun = PageRun::new(PageIndex(0), 1);

/// The category of guard pages, if the kernel knows it (6.15).
pub(crate) fn guard_category(pagemap: &Pagemap) -> Result<Categories, PagemapError> {
    match pagemap.scan(NOWHERE, &PRESENT.reporting(Categories::GUARD), |_| {}) {
        Ok(()) => Ok(Categories::GUARD),
        Err(PagemapError::Scan { .. }) => Ok(Categories::NONE),
        Err(error) => Err(error),
    }
}
