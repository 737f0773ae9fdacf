//! Numbers of ioctl requests (`asm-generic/ioctl.h`; x86-64 and arm64) and the call itself.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOR(kind, number, size)`.
pub(crate) const fn ior(kind: u8, number: u8, size: usize) -> u32 {
    code(READ, kind, number, size)
}

/// `_IOWR(kind, number, size)`.
pub(crate) const fn iowr(kind: u8, number: u8, size: usize) -> u32 {
    code(READ | WRITE, kind, number, size)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the size is checked, the rest only widens"
)]
const fn code(direction: u32, kind: u8, number: u8, size: usize) -> u32 {
    assert!(
        size < 1 << 14,
        "an ioctl's argument has at most 14 bits of size"
    );
    direction << 30 | (size as u32) << 16 | (kind as u32) << 8 | number as u32
}

/// Calls `request` with `argument`; returns what the kernel returns.
///
/// # Safety
/// `T` must be the struct that `request` reads and writes, valid for any bytes the kernel may put
/// there; and every address and length in it must be valid for what `request` does with it in this
/// process.
pub(crate) unsafe fn call<T>(fd: impl AsFd, request: u32, argument: &mut T) -> io::Result<u32> {
    let fd = fd.as_fd();
    // SAFETY: the descriptor is borrowed, hence open; the argument is exclusively ours and, by the
    // caller's promise, what the request takes.
    let result = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::Ioctl::from(request),
            &raw mut *argument,
        )
    };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}
