//! Quantities as types, so that pages, bytes and addresses cannot be mixed up.

use std::{fmt, ops};

/// Size of a page, in bytes. The product is built for machines with 4 KiB pages (x86-64; arm64 with
/// its usual configuration); `lifeboatd check` refuses others.
pub const PAGE_SIZE: u64 = 4096;

/// [`PAGE_SIZE`] for buffers.
pub const PAGE_BYTES: usize = 4096;

/// An address in another process. Never a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteAddr(pub u64);

/// The number of a page in an address space: its address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

/// Adjacent pages of one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRun {
    /// The first page.
    pub start: PageIndex,
    /// Number of pages.
    pub pages: u64,
}

impl RemoteAddr {
    /// The page that holds this address.
    #[must_use]
    pub const fn page(self) -> PageIndex {
        PageIndex(self.0 / PAGE_SIZE)
    }
}

impl PageIndex {
    /// Address of the page's first byte.
    #[must_use]
    pub const fn addr(self) -> RemoteAddr {
        RemoteAddr(self.0.wrapping_mul(PAGE_SIZE))
    }
}

impl PageRun {
    /// The run of `pages` pages that begins at `start`.
    #[must_use]
    pub const fn new(start: PageIndex, pages: u64) -> Self {
        Self { start, pages }
    }

    /// The pages of the byte range `start..end`, whole pages only (a range that does not begin and
    /// end at a page's border is widened).
    #[must_use]
    pub const fn covering(start: RemoteAddr, end: RemoteAddr) -> Self {
        let first = start.0 / PAGE_SIZE;
        let last = end.0.div_ceil(PAGE_SIZE);
        Self {
            start: PageIndex(first),
            pages: last.saturating_sub(first),
        }
    }

    /// The page after the last one.
    #[must_use]
    pub const fn end(self) -> PageIndex {
        PageIndex(self.start.0.saturating_add(self.pages))
    }

    /// Size, in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.pages.saturating_mul(PAGE_SIZE)
    }

    /// Whether there is no page in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.pages == 0
    }

    /// Whether `page` is one of its pages.
    #[must_use]
    pub const fn contains(self, page: PageIndex) -> bool {
        page.0 >= self.start.0 && page.0 - self.start.0 < self.pages
    }

    /// The pages that both runs have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::new(start, end.0 - start.0))
    }
}

impl ops::Add<u64> for PageIndex {
    type Output = Self;

    fn add(self, pages: u64) -> Self {
        Self(self.0.saturating_add(pages))
    }
}

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr().fmt(f)
    }
}

impl fmt::Display for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersection_is_what_both_have() {
        let run = |start, pages| PageRun::new(PageIndex(start), pages);
        assert_eq!(run(10, 5).intersection(run(12, 10)), Some(run(12, 3)));
        assert_eq!(run(10, 5).intersection(run(15, 1)), None);
        assert_eq!(run(10, 0).intersection(run(10, 1)), None);
    }

    #[test]
    fn covering_widens_to_whole_pages() {
        let run = PageRun::covering(RemoteAddr(4097), RemoteAddr(8193));
        assert_eq!(run, PageRun::new(PageIndex(1), 2));
    }
}
