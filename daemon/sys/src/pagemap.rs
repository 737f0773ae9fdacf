//! Which pages of an address space hold something, and which were written: `/proc/PID/pagemap`.
//!
//! Two views of the same file:
//! - `PAGEMAP_SCAN` (ioctl, kernel 6.7; `Documentation/admin-guide/mm/pagemap.rst`): regions of
//!   pages by category, optionally write-protecting in the same step what is reported, so that no
//!   write falls between looking and protecting;
//! - plain [`Entry`]s, one word per page, for older kernels and for frame numbers.
//!
//! The file is bound to the address space at opening. When that is gone (exit, exec), every
//! function says [`PagemapError::Gone`]; the kernel itself would answer "no pages".
//!
//! # What write tracking does not see
//! - A page that was dropped (`MADV_DONTNEED`, hole) is not reported as written. It holds zeros
//!   now: what an all-pages query ([`Query::DUMPABLE`]) lacks at the freeze must be forgotten.
//! - Writes that do not go through the tracked page tables: write(2) to a memfd, other mappings of
//!   shared memory, DMA into pages pinned before the scan.
//! - Conversely, reading a hole from outside maps the page of zeros there, which then counts as
//!   written once.
//! - Ranges that came by mmap, mremap, fork or exec after registration: they are refused as
//!   [`PagemapError::Untracked`], never reported clean.

use std::{fs::File, io, os::unix::fs::FileExt, sync::OnceLock};

use lifeboat_proto::units::{PAGE_SIZE, PageIndex, PageRun, RemoteAddr};
use linux_raw_sys::general::{self as raw, page_region, pm_scan_arg};
use rustix::process::Pid;

use self::entry::{ENTRIES_MAX, ENTRY_BYTES};
use crate::{flags::flag_set, ioctl};

mod entry;

pub use self::entry::Entry;

/// Most regions the kernel returns in one step; 24 KiB of buffer.
const REGIONS_MAX: usize = 1024;

/// `_IOWR('f', 16, struct pm_scan_arg)`; not in linux-raw-sys.
const PAGEMAP_SCAN: u32 = ioctl::iowr(b'f', 16, size_of::<pm_scan_arg>());

const _: () = assert!(size_of::<pm_scan_arg>() == 96);
const _: () = assert!(size_of::<page_region>() == 24);
const _: () = assert!(PAGEMAP_SCAN == 0xc060_6610);

flag_set! {
    /// A set of page categories (`PAGE_IS_…`).
    pub struct Categories {
        /// In a mapping that is registered for asynchronous write protection.
        WPALLOWED = raw::PAGE_IS_WPALLOWED;
        /// Written since it was last protected; also what was never protected.
        WRITTEN = raw::PAGE_IS_WRITTEN;
        /// Of a file, or of shared memory.
        FILE = raw::PAGE_IS_FILE;
        /// In memory.
        PRESENT = raw::PAGE_IS_PRESENT;
        /// In swap. Also says so: markers left by write protection of holes.
        SWAPPED = raw::PAGE_IS_SWAPPED;
        /// The kernel's page of zeros.
        PFNZERO = raw::PAGE_IS_PFNZERO;
        /// Mapped as a part of a huge page.
        HUGE = raw::PAGE_IS_HUGE;
        /// Soft-dirty (kernel 6.9, and only where soft-dirty exists).
        SOFT_DIRTY = raw::PAGE_IS_SOFT_DIRTY;
        /// A guard page of `MADV_GUARD_INSTALL` (kernel 6.15).
        GUARD = raw::PAGE_IS_GUARD;
    }
}

/// Which pages a scan is about. A page matches if it has all of `all` and, unless empty, one of
/// `any`, where the categories in `inverted` count as had when the page does *not* have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Categories whose meaning is turned round, in `all` and `any` alike.
    pub inverted: Categories,
    /// All of these.
    pub all: Categories,
    /// One of these; empty: no condition.
    pub any: Categories,
    /// Which categories the answer tells (not inverted). Neighbours that differ in these are
    /// separate regions.
    pub report: Categories,
}

impl Query {
    /// What CRIU 4.2 dumps of a private mapping (`criu/pagemap-cache.c`): pages in memory or swap
    /// that are not the page of zeros, do not belong to a file, and are no guard pages.
    pub const DUMPABLE: Self = Self {
        inverted: Categories::PFNZERO
            .union(Categories::FILE)
            .union(Categories::GUARD),
        all: Categories::PFNZERO
            .union(Categories::FILE)
            .union(Categories::GUARD),
        any: Categories::PRESENT.union(Categories::SWAPPED),
        report: Categories::NONE,
    };

    /// Pages that hold something and were written since they were last protected. Says nothing of
    /// holes, so that protecting what it finds leaves no markers in holes (which would look
    /// swapped to CRIU and, on hugetlb mappings, hang kernels of 2026 and before). Nor of guard
    /// pages, which look swapped and written, cannot be read, and must stay what they are.
    pub const WRITTEN: Self = Self {
        inverted: Categories::GUARD,
        all: Categories::WRITTEN.union(Categories::GUARD),
        any: Categories::PRESENT.union(Categories::SWAPPED),
        report: Categories::NONE,
    };

    /// The same query, telling these categories of each region.
    #[must_use]
    pub const fn reporting(self, report: Categories) -> Self {
        Self { report, ..self }
    }

    /// The same query for kernels that do not know guard pages by name: they refuse what they do
    /// not know.
    const fn without_guard_pages(self) -> Self {
        Self {
            inverted: self.inverted.difference(Categories::GUARD),
            all: self.all.difference(Categories::GUARD),
            any: self.any.difference(Categories::GUARD),
            report: self.report.difference(Categories::GUARD),
        }
    }
}

/// Adjacent pages with the same reported categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The pages.
    pub run: PageRun,
    /// Those of [`Query::report`] that they have.
    pub categories: Categories,
}

/// `/proc/PID/pagemap` of one address space.
#[derive(Debug)]
pub struct Pagemap {
    pid: Pid,
    file: File,
}

/// Why a page table could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PagemapError {
    /// The process has ended, or replaced its address space by exec.
    #[error("the address space of process {pid} is gone")]
    Gone {
        /// Number of the process.
        pid: i32,
    },
    /// The file could not be opened.
    #[error("open the pagemap of process {pid}")]
    Open {
        /// Number of the process.
        pid: i32,
        /// The kernel's answer; EACCES or EPERM: no ptrace access.
        source: io::Error,
    },
    /// The kernel is older than 6.7.
    #[error("this kernel has no PAGEMAP_SCAN (6.7)")]
    Unsupported,
    /// A mapping in the range is not registered for write tracking. Everything in the range counts
    /// as written.
    #[error("process {pid} has untracked mappings in {range}")]
    Untracked {
        /// Number of the process.
        pid: i32,
        /// What was to be scanned.
        range: PageRun,
    },
    /// The scan failed. When it was to protect, everything in the range counts as written.
    #[error("scan pages {range} of process {pid}")]
    Scan {
        /// Number of the process.
        pid: i32,
        /// What was to be scanned.
        range: PageRun,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Entries could not be read.
    #[error("read pagemap entries of process {pid} from {page}")]
    Entries {
        /// Number of the process.
        pid: i32,
        /// The first page.
        page: PageIndex,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl PagemapError {
    /// The process has ended or executed another program.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

impl Pagemap {
    /// Opens the page table of process `pid` as it is now.
    ///
    /// # Errors
    /// [`PagemapError::Gone`] or [`PagemapError::Open`].
    pub fn open(pid: Pid) -> Result<Self, PagemapError> {
        let number = pid.as_raw_nonzero().get();
        match File::open(format!("/proc/{number}/pagemap")) {
            Ok(file) => Ok(Self { pid, file }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                Err(PagemapError::Gone { pid: number })
            }
            Err(source) => Err(PagemapError::Open {
                pid: number,
                source,
            }),
        }
    }

    /// Number of the process.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Calls `found` with every matching region of `range`, in ascending order, adjacent ones
    /// merged.
    ///
    /// # Errors
    /// [`PagemapError`]; regions found before the error were reported.
    pub fn scan(
        &self,
        range: PageRun,
        query: &Query,
        found: impl FnMut(Region),
    ) -> Result<(), PagemapError> {
        self.scan_with(range, query, 0, found)
    }

    /// Reports the pages of `range` that were written ([`Query::WRITTEN`]) and write-protects them
    /// again in the same step. Read the pages afterwards: one that is written in between is simply
    /// reported the next time.
    ///
    /// Every mapping in the range must be registered with a userfaultfd for asynchronous write
    /// protection. The first scan reports all pages.
    ///
    /// # Errors
    /// After any error every page of `range` counts as written: some may have been protected and
    /// not reported.
    pub fn scan_and_protect(
        &self,
        range: PageRun,
        report: Categories,
        found: impl FnMut(Region),
    ) -> Result<(), PagemapError> {
        let flags = raw::PM_SCAN_WP_MATCHING | raw::PM_SCAN_CHECK_WPASYNC;
        self.scan_with(
            range,
            &Query::WRITTEN.reporting(report),
            u64::from(flags),
            found,
        )
    }

    fn scan_with(
        &self,
        range: PageRun,
        query: &Query,
        flags: u64,
        found: impl FnMut(Region),
    ) -> Result<(), PagemapError> {
        let mut merger = Merger {
            pending: None,
            found,
        };
        let mut buffer = vec![EMPTY_REGION; REGIONS_MAX];
        let query = if knows_guard_pages() {
            *query
        } else {
            query.without_guard_pages()
        };
        let end = range.end().addr().0;
        let mut start = range.start.addr().0;
        while start < end {
            match self.step(start, end, &query, flags, &mut buffer) {
                Ok(step) => {
                    buffer[..step.regions]
                        .iter()
                        .for_each(|region| merger.push(region));
                    // The kernel always gets on; if it ever did not, this must still end.
                    if step.walk_end <= start {
                        return Err(self.scan_error(range, io::ErrorKind::InvalidData.into()));
                    }
                    start = step.walk_end;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    merger.finish();
                    return Err(self.scan_error(range, source));
                }
            }
        }
        merger.finish();
        self.check_alive()
    }

    fn step(
        &self,
        start: u64,
        end: u64,
        query: &Query,
        flags: u64,
        buffer: &mut [page_region],
    ) -> io::Result<Step> {
        let mut argument = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags,
            start,
            end,
            walk_end: 0,
            vec: buffer.as_mut_ptr().expose_provenance() as u64,
            vec_len: buffer.len() as u64,
            max_pages: 0,
            category_inverted: query.inverted.bits(),
            category_mask: query.all.bits(),
            category_anyof_mask: query.any.bits(),
            return_mask: query.report.bits(),
        };
        // SAFETY: the struct is PAGEMAP_SCAN's; `vec` is valid for writes of `vec_len` regions,
        // for which any bytes are valid, and nobody else uses the buffer meanwhile.
        let count = unsafe { ioctl::call(&self.file, PAGEMAP_SCAN, &mut argument) }?;
        let regions = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        // A walk that fills the kernel's own buffer (512 regions) and then reaches its end leaves
        // `walk_end` where that buffer was full (seen with 6.18). What is reported was walked.
        let reported = buffer[..regions].last().map_or(0, |region| region.end);
        Ok(Step {
            regions,
            walk_end: argument.walk_end.max(reported),
        })
    }

    fn scan_error(&self, range: PageRun, source: io::Error) -> PagemapError {
        let pid = self.number();
        match source.raw_os_error() {
            // What kernels from 6.18 on say of an address space that is gone.
            Some(libc::ESRCH) => PagemapError::Gone { pid },
            Some(libc::ENOTTY) => PagemapError::Unsupported,
            Some(libc::EPERM) => PagemapError::Untracked { pid, range },
            _ => PagemapError::Scan { pid, range, source },
        }
    }

    /// A scan of an address space that is gone finds nothing, without an error; a plain read says
    /// so by its length.
    fn check_alive(&self) -> Result<(), PagemapError> {
        match self.file.read_at(&mut [0; 8], 0) {
            Ok(0) => Err(PagemapError::Gone { pid: self.number() }),
            Ok(_) => Ok(()),
            Err(source) => Err(PagemapError::Entries {
                pid: self.number(),
                page: PageIndex(0),
                source,
            }),
        }
    }

    /// Reads the entries of the pages from `first` on, one for each element of `entries`.
    ///
    /// # Errors
    /// [`PagemapError::Gone`], also for pages beyond the address space; [`PagemapError::Entries`].
    pub fn entries(&self, first: PageIndex, entries: &mut [Entry]) -> Result<(), PagemapError> {
        let mut bytes = vec![0; entries.len().min(ENTRIES_MAX) * ENTRY_BYTES];
        let mut page = first;
        for part in entries.chunks_mut(ENTRIES_MAX) {
            let bytes = &mut bytes[..part.len() * ENTRY_BYTES];
            let offset = page.0.saturating_mul(ENTRY_BYTES as u64);
            self.file.read_exact_at(bytes, offset).map_err(|source| {
                let pid = self.number();
                if source.kind() == io::ErrorKind::UnexpectedEof {
                    PagemapError::Gone { pid }
                } else {
                    PagemapError::Entries { pid, page, source }
                }
            })?;
            for (entry, word) in part.iter_mut().zip(bytes.chunks_exact(ENTRY_BYTES)) {
                let word = word.try_into().expect("chunks are exact");
                *entry = Entry(u64::from_ne_bytes(word));
            }
            page = page + part.len() as u64;
        }
        Ok(())
    }

    const fn number(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

/// Whether this kernel's scan tells guard pages from others (6.15). Before that, guard pages (6.13)
/// look like pages in swap.
fn knows_guard_pages() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let query = Query::default().reporting(Categories::GUARD);
        let page = PageIndex(1).addr().0;
        Pagemap::open(rustix::process::getpid()).is_ok_and(|own| {
            let mut buffer = [EMPTY_REGION];
            own.step(page, page + PAGE_SIZE, &query, 0, &mut buffer)
                .is_ok()
        })
    })
}

const EMPTY_REGION: page_region = page_region {
    start: 0,
    end: 0,
    categories: 0,
};

struct Step {
    regions: usize,
    walk_end: u64,
}

/// Joins regions that the kernel cut in two between steps.
struct Merger<F> {
    pending: Option<Region>,
    found: F,
}

impl<F: FnMut(Region)> Merger<F> {
    fn push(&mut self, region: &page_region) {
        let run = PageRun::covering(RemoteAddr(region.start), RemoteAddr(region.end));
        let next = Region {
            run,
            categories: Categories::from_bits(region.categories),
        };
        match &mut self.pending {
            Some(last) if last.run.end() == run.start && last.categories == next.categories => {
                last.run.pages += run.pages;
            }
            _ => {
                self.finish();
                self.pending = Some(next);
            }
        }
    }

    fn finish(&mut self) {
        if let Some(region) = self.pending.take() {
            (self.found)(region);
        }
    }
}
