//! `PAGEMAP_SCAN` without the hidden ranges.
//!
//! The kernel is asked only about the visible parts of the range, one after the other, and its
//! answers follow each other in CRIU's own buffer. So nothing is trimmed, and an answer can be
//! short only where the kernel's can: when the buffer is full. `walk_end` then says where to go
//! on, as the kernel's does.

use std::ffi::{c_int, c_ulong};

use crate::{ask, ranges::Hidden};

/// The request's number: `_IOWR('f', 16, struct pm_scan_arg)`.
pub(crate) const PAGEMAP_SCAN: c_ulong = 0xc060_6610;

/// `struct pm_scan_arg` of linux/fs.h (Linux 6.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(
    size_of::<ScanArgument>() == 96,
    "the size in the request's number"
);

/// Size of `struct page_region`, in bytes.
const REGION_BYTES: u64 = 24;

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_SOFT_DIRTY: u64 = 1 << 7;
const PAGE_IS_GUARD: u64 = 1 << 8;

/// What a scan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To dump pages: filtered.
    Dump,
    /// To find guard regions, which are part of the mappings: not filtered.
    Guards,
    /// To learn what the kernel can do, on no memory at all: not filtered.
    Probe,
}

impl ScanArgument {
    /// `None`: nothing that CRIU 4.2 asks.
    fn purpose(&self) -> Option<Purpose> {
        if self.start == self.end {
            return Some(Purpose::Probe);
        }
        let plain = self.flags == 0 && self.max_pages == 0;
        let dump = self.category_inverted == PAGE_IS_PFNZERO | PAGE_IS_FILE
            && self.category_mask == PAGE_IS_PFNZERO | PAGE_IS_FILE
            && self.category_anyof_mask == PAGE_IS_PRESENT | PAGE_IS_SWAPPED
            && self.return_mask & !(PAGE_IS_SOFT_DIRTY | PAGE_IS_GUARD)
                == PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
        let guards = self.category_inverted == 0
            && self.category_mask == PAGE_IS_GUARD
            && self.category_anyof_mask == 0
            && self.return_mask == PAGE_IS_GUARD;
        match (plain, dump, guards) {
            (true, true, false) => Some(Purpose::Dump),
            (true, false, true) => Some(Purpose::Guards),
            _ => None,
        }
    }
}

/// Whether the answer must leave out what is hidden.
///
/// # Errors
/// `EOPNOTSUPP`: nothing that CRIU 4.2 asks.
pub(crate) fn is_filtered(argument: &ScanArgument) -> Result<bool, c_int> {
    argument
        .purpose()
        .map(|purpose| purpose == Purpose::Dump)
        .ok_or(libc::EOPNOTSUPP)
}

/// Answers a scan of another process's pagemap without what is hidden.
pub(crate) fn filtered(
    fd: c_int,
    argument: &mut ScanArgument,
    hidden: &Hidden,
) -> Result<i64, c_int> {
    visible(argument, hidden, |part| scan(fd, part))
}

/// Scans the visible parts of `argument`'s range with `scan`, and gathers the answers.
fn visible(
    argument: &mut ScanArgument,
    hidden: &Hidden,
    mut scan: impl FnMut(&mut ScanArgument) -> Result<i64, c_int>,
) -> Result<i64, c_int> {
    let whole = *argument;
    let mut regions = 0_u64;
    for range in hidden.visible(whole.start..whole.end) {
        if regions == whole.vec_len {
            argument.walk_end = range.start;
            return i64::try_from(regions).map_err(|_| libc::EOVERFLOW);
        }
        let mut part = ScanArgument {
            start: range.start,
            end: range.end,
            walk_end: 0,
            vec: whole.vec + regions * REGION_BYTES,
            vec_len: whole.vec_len - regions,
            ..whole
        };
        let found = scan(&mut part)?;
        regions += u64::try_from(found).map_err(|_| libc::EPROTO)?;
        if part.walk_end < range.end {
            argument.walk_end = part.walk_end;
            return i64::try_from(regions).map_err(|_| libc::EOVERFLOW);
        }
    }
    argument.walk_end = whole.end;
    i64::try_from(regions).map_err(|_| libc::EOVERFLOW)
}

fn scan(fd: c_int, argument: &mut ScanArgument) -> Result<i64, c_int> {
    // SAFETY: the argument is a whole `struct pm_scan_arg`; its `vec` and `vec_len` are CRIU's own
    // buffer or the rest of it.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, PAGEMAP_SCAN, &raw mut *argument) };
    if result == -1 {
        Err(ask::errno())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(range: std::ops::Range<u64>, vec_len: u64) -> ScanArgument {
        ScanArgument {
            size: 96,
            start: range.start,
            end: range.end,
            vec: 0x1_0000,
            vec_len,
            category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            category_mask: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_SOFT_DIRTY,
            ..ScanArgument::default()
        }
    }

    #[test]
    fn criu_s_own_scans_are_told_apart_and_others_refused() {
        assert_eq!(dump(0x1000..0x9000, 8).purpose(), Some(Purpose::Dump));
        assert_eq!(dump(0..0, 0).purpose(), Some(Purpose::Probe));
        let guards = ScanArgument {
            start: 0,
            end: 1 << 47,
            vec_len: 1000,
            category_mask: PAGE_IS_GUARD,
            return_mask: PAGE_IS_GUARD,
            ..ScanArgument::default()
        };
        assert_eq!(guards.purpose(), Some(Purpose::Guards));
        let with_flags = ScanArgument {
            flags: 1,
            ..dump(0x1000..0x9000, 8)
        };
        assert_eq!(with_flags.purpose(), None);
        let written = ScanArgument {
            return_mask: 1 << 1,
            ..dump(0x1000..0x9000, 8)
        };
        assert_eq!(written.purpose(), None);
    }

    /// A kernel that finds a region of one page at every page until its buffer is full.
    fn kernel(part: &mut ScanArgument, log: &mut Vec<(u64, u64, u64)>) -> i64 {
        let pages = (part.end - part.start) / 0x1000;
        let found = pages.min(part.vec_len);
        part.walk_end = part.start + found * 0x1000;
        log.push((part.start, part.walk_end, part.vec));
        i64::try_from(found).expect("small")
    }

    #[test]
    fn only_visible_parts_are_asked_for_and_answers_follow_each_other() {
        let hidden = Hidden::new(vec![0x2000..0x4000, 0x6000..0x7000]).expect("in order");
        let mut argument = dump(0x1000..0x9000, 100);
        let mut log = Vec::new();
        let found = visible(&mut argument, &hidden, |part| Ok(kernel(part, &mut log)));
        assert_eq!(found, Ok(5));
        assert_eq!(argument.walk_end, 0x9000);
        let vec = |regions: u64| 0x1_0000 + regions * REGION_BYTES;
        assert_eq!(
            log,
            [
                (0x1000, 0x2000, vec(0)),
                (0x4000, 0x6000, vec(1)),
                (0x7000, 0x9000, vec(3))
            ]
        );
    }

    #[test]
    fn a_hidden_range_is_walked_to_its_end_so_that_criu_goes_on() {
        let hidden = Hidden::new(vec![0x1000..0x3000, 0x3000..0x9000]).expect("in order");
        let mut argument = dump(0x2000..0x8000, 4);
        assert_eq!(visible(&mut argument, &hidden, |_| Err(libc::EIO)), Ok(0));
        assert_eq!(argument.walk_end, 0x8000);
    }

    /// Whatever the size of the buffer, going on from `walk_end` sees every visible page once.
    #[test]
    fn a_full_buffer_loses_nothing() {
        let hidden = Hidden::new(vec![0x2000..0x4000, 0x6000..0x7000]).expect("in order");
        for vec_len in 1..10 {
            let mut seen = Vec::new();
            let mut at = 0x1000;
            while at < 0x9000 {
                let mut argument = dump(at..0x9000, vec_len);
                let mut log = Vec::new();
                visible(&mut argument, &hidden, |part| Ok(kernel(part, &mut log))).expect("scans");
                for (start, end, _) in log {
                    seen.extend((start..end).step_by(0x1000));
                }
                assert!(argument.walk_end > at, "progress");
                at = argument.walk_end;
            }
            assert_eq!(
                seen,
                [0x1000, 0x4000, 0x5000, 0x7000, 0x8000],
                "buffer of {vec_len}"
            );
        }
    }
}
