//! Anonymous shared memory of this process, zeroed: what `mmap(MAP_SHARED | MAP_ANONYMOUS)` gives.
//!
//! Nobody else maps it unless a child is forked; it is for programs that are to have such memory.

use std::{io, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of a word.
const WORD_BYTES: usize = size_of::<u64>();

/// A mapping. Dropped, it is unmapped.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<u64>,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone, like a box; no thread is special to it.
unsafe impl Send for SharedMemory {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `words` words of 64 bits.
    ///
    /// # Errors
    /// As mmap(2); `InvalidInput` for nothing, and for more than there are addresses.
    pub fn new(words: usize) -> io::Result<Self> {
        let bytes = words
            .checked_mul(WORD_BYTES)
            .filter(|bytes| *bytes > 0 && isize::try_from(*bytes).is_ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so the kernel takes one that nothing uses.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, words })
    }

    /// The content.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        // SAFETY: the mapping has so many words, is aligned to pages, initialised with zeros, and
        // lives as long as this value; it is not written while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// The content, to be changed.
    pub fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`, and the exclusive borrow makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.words) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let start = self.start.as_ptr().cast();
        // SAFETY: this is the whole mapping, and no reference to it outlives the value.
        let unmapped = unsafe { rustix::mm::munmap(start, self.words * WORD_BYTES) };
        debug_assert!(unmapped.is_ok(), "an own mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_calls_it_shared() {
        let mut memory = SharedMemory::new(4096).unwrap();
        assert!(memory.words().iter().all(|word| *word == 0));
        memory.words_mut()[4095] = 7;
        assert_eq!(memory.words()[4095], 7);
        let start = memory.start.as_ptr().addr() as u64;
        let own = rustix::process::getpid();
        let mappings = crate::maps::read(own).unwrap();
        let mapping = mappings.iter().find(|one| one.run.start.addr().0 == start);
        assert!(!mapping.unwrap().is_private_anonymous());
        assert!(SharedMemory::new(0).is_err());
    }
}
