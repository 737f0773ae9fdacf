//! One word of `/proc/PID/pagemap` (`Documentation/admin-guide/mm/pagemap.rst`).

/// Size of an entry, in bytes.
pub(super) const ENTRY_BYTES: usize = 8;

/// Most entries read in one call; 64 KiB of buffer.
pub(super) const ENTRIES_MAX: usize = 8192;

/// What the page table says of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry(pub(super) u64);

impl Entry {
    /// In memory.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.bit(63)
    }

    /// In swap.
    #[must_use]
    pub const fn is_swapped(self) -> bool {
        self.bit(62)
    }

    /// Of a file, or of shared memory.
    #[must_use]
    pub const fn is_file_or_shared(self) -> bool {
        self.bit(61)
    }

    /// A guard page (kernel 6.15).
    #[must_use]
    pub const fn is_guard(self) -> bool {
        self.bit(58)
    }

    /// Write-protected by a userfaultfd, that is, not written since.
    #[must_use]
    pub const fn is_write_protected(self) -> bool {
        self.bit(57)
    }

    /// Mapped by this address space only. A present page of a private mapping that is not may be
    /// shared, copy-on-write, with a parent or child: [`Entry::frame`] tells which are the same.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        self.bit(56)
    }

    /// Written since soft-dirty bits were last cleared; never set on kernels without them.
    #[must_use]
    pub const fn is_soft_dirty(self) -> bool {
        self.bit(55)
    }

    /// Number of the page frame. `None`: not in memory, or hidden from a reader without
    /// `CAP_SYS_ADMIN` (the kernel says 0 then).
    #[must_use]
    pub const fn frame(self) -> Option<u64> {
        let frame = self.0 & ((1 << 55) - 1);
        if self.is_present() && frame != 0 {
            Some(frame)
        } else {
            None
        }
    }

    const fn bit(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::Entry;

    #[test]
    fn bits_are_where_the_kernel_documents_them() {
        let entry = Entry(1 << 63 | 1 << 56 | 0x1234);
        assert!(entry.is_present() && entry.is_exclusive() && !entry.is_swapped());
        assert_eq!(entry.frame(), Some(0x1234));
        // Swap type and offset are not a frame.
        assert_eq!(Entry(1 << 62 | 0x1234).frame(), None);
        assert_eq!(Entry(1 << 63).frame(), None);
    }
}
