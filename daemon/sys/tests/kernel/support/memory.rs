//! Memory of this process that tests look at from outside.

use std::{ptr, slice};

use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun, RemoteAddr};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

/// Private anonymous pages, never huge, unmapped when dropped. A forked child has its copy at the
/// same address.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut u8,
    pages: usize,
}

// SAFETY: plain memory, which its owner may use from any thread.
unsafe impl Send for Memory {}
// SAFETY: shared references only read.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(pages: usize) -> Self {
        Self::with_flags(pages, MapFlags::PRIVATE | MapFlags::NORESERVE)
    }

    pub(crate) fn with_flags(pages: usize, flags: MapFlags) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let length = pages * PAGE_BYTES;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, prot, flags) };
        let memory = Self {
            start: start.unwrap().cast(),
            pages,
        };
        memory.advise(0, pages, Advice::LinuxNoHugepage);
        memory
    }

    pub(crate) fn len(&self) -> usize {
        self.pages * PAGE_BYTES
    }

    pub(crate) fn addr(&self) -> RemoteAddr {
        RemoteAddr(self.start.expose_provenance() as u64)
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        self.start
    }

    pub(crate) fn run(&self) -> PageRun {
        PageRun::new(self.addr().page(), self.pages as u64)
    }

    pub(crate) fn part(&self, first: usize, pages: usize) -> PageRun {
        PageRun::new(PageIndex(self.addr().page().0 + first as u64), pages as u64)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and readable for as long as this lives; tests that protect or drop parts
        // of it do not look at them through here.
        unsafe { slice::from_raw_parts(self.start, self.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { slice::from_raw_parts_mut(self.start, self.len()) }
    }

    pub(crate) fn page_mut(&mut self, page: usize) -> &mut [u8] {
        &mut self.bytes_mut()[page * PAGE_BYTES..][..PAGE_BYTES]
    }

    pub(crate) fn protect(&self, first: usize, pages: usize, flags: MprotectFlags) {
        let start = self.start.wrapping_add(first * PAGE_BYTES);
        // SAFETY: a part of this mapping.
        unsafe { rustix::mm::mprotect(start.cast(), pages * PAGE_BYTES, flags) }.unwrap();
    }

    pub(crate) fn advise(&self, first: usize, pages: usize, advice: Advice) {
        let start = self.start.wrapping_add(first * PAGE_BYTES);
        // SAFETY: a part of this mapping, with no reference to its bytes alive.
        unsafe { rustix::mm::madvise(start.cast(), pages * PAGE_BYTES, advice) }.unwrap();
    }

    pub(crate) fn unmap(&self, first: usize, pages: usize) {
        let start = self.start.wrapping_add(first * PAGE_BYTES);
        // SAFETY: a part of this mapping that the test does not touch any more.
        unsafe { rustix::mm::munmap(start.cast(), pages * PAGE_BYTES) }.unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.unmap(0, self.pages);
    }
}
