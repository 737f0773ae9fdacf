//! Shared memory without the hidden ranges.
//!
//! CRIU opens a shared memory object and finds what is in it with `SEEK_DATA` and `SEEK_HOLE` of
//! lseek(2). Hidden ranges look like holes; a restore leaves holes empty.

use std::ffi::c_int;

use crate::{ask, ask::Owner, filter, guarded, ranges::Hidden};

/// lseek(2) with 64-bit offsets, filtered when it looks for data and holes in regular files.
///
/// # Safety
/// As lseek(2), which asks for nothing.
#[unsafe(no_mangle)]
#[expect(unreachable_pub, reason = "the dynamic linker reaches it")]
pub unsafe extern "C" fn lseek64(fd: c_int, offset: i64, whence: c_int) -> i64 {
    guarded(|| {
        let filtered = filter().filter(|_| matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE));
        let Some((filter, object)) = filtered.zip(object(fd)) else {
            return kernel_lseek(fd, offset, whence);
        };
        let kernel = |offset, whence| kernel_lseek(fd, offset, whence);
        filter.with_hidden(object, |hidden| match whence {
            libc::SEEK_DATA => data(hidden, offset, kernel),
            _ => hole(hidden, offset, kernel),
        })?
    })
}

/// The first byte of data at or after `offset` that is not hidden.
fn data(
    hidden: &Hidden,
    mut offset: i64,
    kernel: impl Fn(i64, c_int) -> Result<i64, c_int>,
) -> Result<i64, c_int> {
    loop {
        let found = kernel(offset, libc::SEEK_DATA)?;
        match hidden.around(found.cast_unsigned()) {
            None => return Ok(found),
            Some(range) => offset = i64::try_from(range.end).map_err(|_| libc::ENXIO)?,
        }
    }
}

/// The first byte at or after `offset` that is in a hole or hidden.
fn hole(
    hidden: &Hidden,
    offset: i64,
    kernel: impl Fn(i64, c_int) -> Result<i64, c_int>,
) -> Result<i64, c_int> {
    let found = kernel(offset, libc::SEEK_HOLE)?;
    let before = hidden
        .hidden(offset.cast_unsigned()..found.cast_unsigned())
        .next();
    match before.and_then(|range| i64::try_from(range.start).ok()) {
        Some(start) => kernel(start, libc::SEEK_SET),
        None => Ok(found),
    }
}

/// What a descriptor of a regular file refers to.
fn object(fd: c_int) -> Option<Owner> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the pointer is to room for a `struct stat`.
    let result = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: fstat(2) has succeeded, and so filled it in.
    let stat = unsafe { stat.assume_init() };
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    regular.then_some(Owner::Object(stat.st_dev, stat.st_ino))
}

fn kernel_lseek(fd: c_int, offset: i64, whence: c_int) -> Result<i64, c_int> {
    // SAFETY: lseek(2) takes no pointers.
    match unsafe { libc::syscall(libc::SYS_lseek, fd, offset, whence) } {
        -1 => Err(ask::errno()),
        position => Ok(position),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    const SIZE: i64 = 24;

    /// A file of [`SIZE`] bytes with data in these ranges.
    fn file(data: &[Range<i64>], offset: i64, whence: c_int) -> Result<i64, c_int> {
        let is_data = |at: &i64| data.iter().any(|range| range.contains(at));
        match whence {
            libc::SEEK_SET => Ok(offset),
            _ if offset >= SIZE => Err(libc::ENXIO),
            libc::SEEK_DATA => (offset..SIZE).find(is_data).ok_or(libc::ENXIO),
            _ => Ok((offset..SIZE).find(|at| !is_data(at)).unwrap_or(SIZE)),
        }
    }

    /// Walking from data to hole to data, as CRIU does, finds what is data and not hidden.
    #[test]
    #[expect(
        clippy::single_range_in_vec_init,
        reason = "sets of one range are sets"
    )]
    fn hidden_ranges_look_like_holes() {
        let datas: &[&[Range<i64>]] = &[&[], &[0..24], &[3..9, 12..20], &[0..1, 23..24]];
        let sets: &[&[Range<u64>]] = &[
            &[],
            &[0..24],
            &[4..6],
            &[0..5, 8..14],
            &[2..3, 3..4, 19..24],
        ];
        for (present, set) in datas
            .iter()
            .flat_map(|data| sets.iter().map(move |set| (data, set)))
        {
            let hidden = Hidden::new(set.to_vec()).expect("in order");
            let kernel = |offset, whence| file(present, offset, whence);
            let mut found = Vec::new();
            let mut at = 0;
            while let Ok(start) = data(&hidden, at, kernel) {
                at = hole(&hidden, start, kernel).expect("data ends");
                assert!(at > start, "progress");
                found.extend(start..at);
            }
            let wanted: Vec<i64> = (0..SIZE)
                .filter(|at| present.iter().any(|range| range.contains(at)))
                .filter(|at| !set.iter().any(|range| range.contains(&at.cast_unsigned())))
                .collect();
            assert_eq!(found, wanted, "data {present:?} hidden {set:?}");
        }
    }
}
