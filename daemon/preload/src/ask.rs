//! The filter's end of its socket.
//!
//! Nothing here retries: what is not understood is an errno, CRIU's system call fails with it, and
//! CRIU gives the dump up.

use std::{ffi::c_int, ops::Range};

use crate::{
    protocol::{
        ANSWER_BYTES, ANSWER_MAGIC, QUESTION_BYTES, QUESTION_MAGIC, RANGE_BYTES, RANGES_MAX,
        RANGES_PER_MESSAGE,
    },
    ranges::Hidden,
};

/// Asks which ranges of `pid` are hidden.
///
/// # Errors
/// The errno that CRIU's system call is to fail with. A daemon that does not answer within the
/// socket's receive timeout is `EAGAIN`, one that is gone `ECONNRESET`.
pub(crate) fn hidden(socket: c_int, pid: u32) -> Result<Hidden, c_int> {
    let mut question = [0; QUESTION_BYTES];
    question[..4].copy_from_slice(&QUESTION_MAGIC.to_ne_bytes());
    question[4..].copy_from_slice(&pid.to_ne_bytes());
    send(socket, &question)?;

    let mut answer = [0; ANSWER_BYTES];
    if receive(socket, &mut answer)? != ANSWER_BYTES || word(&answer, 0) != ANSWER_MAGIC {
        return Err(libc::EPROTO);
    }
    match word(&answer, 4) {
        0 => {}
        errno => return Err(c_int::try_from(errno).unwrap_or(libc::EPROTO)),
    }
    let count = usize::try_from(long(&answer, 8)).unwrap_or(usize::MAX);
    if count > RANGES_MAX {
        return Err(libc::EPROTO);
    }
    Hidden::new(receive_ranges(socket, count)?).ok_or(libc::EPROTO)
}

fn receive_ranges(socket: c_int, count: usize) -> Result<Vec<Range<u64>>, c_int> {
    let mut ranges = Vec::with_capacity(count);
    let mut buffer = vec![0; RANGES_PER_MESSAGE * RANGE_BYTES];
    while ranges.len() < count {
        let wanted = (count - ranges.len()).min(RANGES_PER_MESSAGE) * RANGE_BYTES;
        if receive(socket, &mut buffer)? != wanted {
            return Err(libc::EPROTO);
        }
        let pairs = buffer[..wanted].chunks_exact(RANGE_BYTES);
        ranges.extend(pairs.map(|pair| long(pair, 0)..long(pair, 8)));
    }
    Ok(ranges)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(long)
}

fn send(socket: c_int, bytes: &[u8]) -> Result<(), c_int> {
    loop {
        // SAFETY: the pointer and the length are those of a live slice.
        let sent = unsafe {
            libc::send(
                socket,
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(libc::EPROTO),
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
}

/// Receives one message. One that does not fit is an error, and so is the end.
fn receive(socket: c_int, buffer: &mut [u8]) -> Result<usize, c_int> {
    loop {
        // SAFETY: the pointer and the length are those of a live, writable slice.
        let received = unsafe {
            libc::recv(
                socket,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        };
        match usize::try_from(received) {
            Ok(0) => return Err(libc::ECONNRESET),
            Ok(received) if received <= buffer.len() => return Ok(received),
            Ok(_) => return Err(libc::EPROTO),
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    }
}

/// The process that a descriptor of `/proc/PID/pagemap` is about; `None` for any other file.
pub(crate) fn process_of_pagemap(fd: c_int) -> Option<u32> {
    let mut link = [0_u8; 32];
    let path = format!("/proc/self/fd/{fd}\0");
    // SAFETY: the path ends with a NUL; the pointer and the length are those of a live, writable
    // array.
    let length =
        unsafe { libc::readlink(path.as_ptr().cast(), link.as_mut_ptr().cast(), link.len()) };
    let link = link.get(..usize::try_from(length).ok()?)?;
    let pid = link.strip_prefix(b"/proc/")?.strip_suffix(b"/pagemap")?;
    std::str::from_utf8(pid).ok()?.parse().ok()
}

pub(crate) fn errno() -> c_int {
    // SAFETY: takes nothing; the answer points to this thread's errno.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the pointer is valid for as long as the thread lives.
    unsafe { *place }
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: takes nothing; the answer points to this thread's errno.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the pointer is valid for as long as the thread lives, and nobody else writes to it.
    unsafe { *place = errno }
}

const _: () = assert!(size_of::<usize>() == 8, "64-bit machines only");
