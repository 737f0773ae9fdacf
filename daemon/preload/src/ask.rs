//! The filter's end of its socket.
//!
//! Nothing here retries: what is not understood is an errno, CRIU's system call fails with it, and
//! CRIU gives the dump up.

use std::{
    ffi::c_int,
    mem::{MaybeUninit, size_of_val},
    ops::Range,
};

use crate::{
    protocol::{
        ANSWER_BYTES, ANSWER_MAGIC, ASK_OBJECT, ASK_PROCESS, ASK_SMAPS, QUESTION_BYTES,
        QUESTION_MAGIC, RANGE_BYTES, RANGES_MAX, RANGES_PER_MESSAGE,
    },
    ranges::Hidden,
};

/// Whose pages are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A process; ranges are addresses.
    Process(u32),
    /// A shared memory object (`st_dev`, `st_ino`); ranges are offsets.
    Object(u64, u64),
}

/// Asks which ranges are hidden.
///
/// # Errors
/// The errno that CRIU's system call is to fail with. A daemon that does not answer within the
/// socket's receive timeout is `EAGAIN`, one that is gone `ECONNRESET`.
pub(crate) fn hidden(socket: c_int, owner: Owner) -> Result<Hidden, c_int> {
    let (kind, a, b) = match owner {
        Owner::Process(pid) => (ASK_PROCESS, u64::from(pid), 0),
        Owner::Object(device, inode) => (ASK_OBJECT, device, inode),
    };
    ask(socket, kind, a, b)?;
    let mut answer = [0; ANSWER_BYTES];
    let length = receive(socket, &mut answer)?;
    let count = usize::try_from(count(&answer[..length])?).unwrap_or(usize::MAX);
    if count > RANGES_MAX {
        return Err(libc::EPROTO);
    }
    Hidden::new(receive_ranges(socket, count)?).ok_or(libc::EPROTO)
}

/// Asks what to read as `/proc/PID/smaps`. `None`: the file itself. The descriptor is the caller's.
///
/// # Errors
/// As [`hidden`].
pub(crate) fn smaps(socket: c_int, pid: u32) -> Result<Option<c_int>, c_int> {
    ask(socket, ASK_SMAPS, u64::from(pid), 0)?;
    let mut answer = [0; ANSWER_BYTES];
    let (length, fd) = receive_fd(socket, &mut answer)?;
    match (count(&answer[..length])?, fd) {
        (0, None) => Ok(None),
        (1, Some(fd)) => Ok(Some(fd)),
        _ => Err(libc::EPROTO),
    }
}

fn ask(socket: c_int, kind: u32, a: u64, b: u64) -> Result<(), c_int> {
    let mut question = [0; QUESTION_BYTES];
    question[..4].copy_from_slice(&QUESTION_MAGIC.to_ne_bytes());
    question[4..8].copy_from_slice(&kind.to_ne_bytes());
    question[8..16].copy_from_slice(&a.to_ne_bytes());
    question[16..].copy_from_slice(&b.to_ne_bytes());
    send(socket, &question)
}

/// What an answer's first message says.
fn count(answer: &[u8]) -> Result<u64, c_int> {
    if answer.len() != ANSWER_BYTES || word(answer, 0) != ANSWER_MAGIC {
        return Err(libc::EPROTO);
    }
    match word(answer, 4) {
        0 => Ok(long(answer, 8)),
        errno => Err(c_int::try_from(errno).unwrap_or(libc::EPROTO)),
    }
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

/// Receives one message, and a descriptor if there is one with it.
fn receive_fd(socket: c_int, buffer: &mut [u8]) -> Result<(usize, Option<c_int>), c_int> {
    // Room for one descriptor, aligned as the kernel wants it.
    let mut control = [0_u64; 4];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: a message header is numbers and pointers; all zeros is a valid, empty one.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let received = loop {
        // SAFETY: the header points to live, writable memory of the lengths that it says.
        let received = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(received) {
            Ok(0) => return Err(libc::ECONNRESET),
            Ok(received) => break received,
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(errno()),
        }
    };
    // SAFETY: the kernel has filled the header in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if first.is_null() {
        return Ok((received, None));
    }
    // SAFETY: not null, so it points into `control`, which is aligned.
    let head = unsafe { *first };
    if head.cmsg_level != libc::SOL_SOCKET || head.cmsg_type != libc::SCM_RIGHTS {
        return Err(libc::EPROTO);
    }
    // SAFETY: as above; the data follow the header.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: at least one descriptor follows a header of this type; it need not be aligned.
    let fd = unsafe { data.cast::<c_int>().read_unaligned() };
    Ok((received, Some(fd)))
}

/// The process that a descriptor of `/proc/PID` followed by `rest` is about; `None` for any other
/// file.
pub(crate) fn process_of(fd: c_int, rest: &str) -> Option<u32> {
    let mut link = [0_u8; 32];
    let path = format!("/proc/self/fd/{fd}\0");
    // SAFETY: the path ends with a NUL; the pointer and the length are those of a live, writable
    // array.
    let length =
        unsafe { libc::readlink(path.as_ptr().cast(), link.as_mut_ptr().cast(), link.len()) };
    let link = link.get(..usize::try_from(length).ok()?)?;
    let pid = link
        .strip_prefix(b"/proc/")?
        .strip_suffix(rest.as_bytes())?;
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
