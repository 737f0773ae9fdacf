//! Bytes with descriptors over Unix sockets (unix(7), `SCM_RIGHTS`), stream or seqpacket.
//!
//! Guarantees:
//! - received descriptors are close-on-exec from the start and owned;
//! - never more than [`FDS_MAX`] descriptors enter this process per message, whatever the peer
//!   sends; what the caller did not ask for is closed and counted;
//! - interrupted calls are repeated; a full or empty non-blocking socket is
//!   [`FdPassError::is_would_block`]; a peer that is gone is an error, never a signal.
//!
//! Descriptors belong to the first byte of their message: on a stream socket a receiver that asks
//! for fewer bytes than were sent gets them with the first part.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

use crate::wait;

/// Most descriptors in one message, both ways. The kernel's own limit is 253 (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 32;

/// What one receive call brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes written to the caller's buffer. 0: the peer closed its end (or, on a seqpacket
    /// socket, sent an empty message).
    pub bytes: usize,
    /// The descriptors, in the order sent, at most as many as asked for.
    pub fds: Vec<OwnedFd>,
    /// The peer sent more descriptors than asked for (or this process has no room for more);
    /// they are closed.
    pub fds_lost: bool,
    /// A seqpacket message did not fit into the buffer; its rest is lost.
    pub bytes_lost: bool,
}

/// Why bytes or descriptors could not be passed.
#[derive(Debug, thiserror::Error)]
pub enum FdPassError {
    /// sendmsg(2) failed.
    #[error("send {bytes} bytes and {fds} descriptors on a unix socket")]
    Send {
        /// Bytes that were to be sent.
        bytes: usize,
        /// Descriptors that were to be sent.
        fds: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// recvmsg(2) failed.
    #[error("receive up to {bytes} bytes on a unix socket")]
    Receive {
        /// Size of the caller's buffer.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The caller wants to send more than [`FDS_MAX`] descriptors, or descriptors without a byte
    /// to carry them.
    #[error("{fds} descriptors do not fit into one message of {bytes} bytes (at most {FDS_MAX})")]
    TooMany {
        /// Bytes that were to be sent.
        bytes: usize,
        /// Descriptors that were to be sent.
        fds: usize,
    },
    /// The peer closed its end before everything was there.
    #[error("the peer closed the unix socket after {received} of {wanted} bytes")]
    Closed {
        /// Bytes that came.
        received: usize,
        /// Bytes that were expected.
        wanted: usize,
    },
    /// The deadline passed.
    #[error("deadline passed after {done} of {wanted} bytes on a unix socket")]
    Deadline {
        /// Bytes that went through.
        done: usize,
        /// Bytes that should have.
        wanted: usize,
    },
}

impl FdPassError {
    /// The socket is non-blocking and full (send) or empty (receive): poll, then try again.
    #[must_use]
    pub fn is_would_block(&self) -> bool {
        matches!(self, Self::Send { source, .. } | Self::Receive { source, .. }
            if source.kind() == io::ErrorKind::WouldBlock)
    }

    /// The peer is gone.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Send { source, .. } | Self::Receive { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
            ),
            Self::TooMany { .. } | Self::Deadline { .. } => false,
        }
    }
}

/// Sends `bytes` with `fds` attached to the first of them, in one call. The number of bytes sent
/// is the answer: on a stream socket it can be less than asked for (the descriptors are gone
/// then, send the rest without them); on a seqpacket socket it is all or an error.
///
/// # Errors
/// [`FdPassError::TooMany`] or [`FdPassError::Send`].
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, FdPassError> {
    if fds.len() > FDS_MAX || (bytes.is_empty() && !fds.is_empty()) {
        return Err(FdPassError::TooMany {
            bytes: bytes.len(),
            fds: fds.len(),
        });
    }
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "the space is for FDS_MAX descriptors");
        }
        let flags = SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(errno) => {
                let source = errno.into();
                return Err(FdPassError::Send {
                    bytes: bytes.len(),
                    fds: fds.len(),
                    source,
                });
            }
        }
    }
}

/// Sends all of `bytes`, with `fds` attached to the first of them, waiting for room until
/// `deadline`. A blocking socket may block longer than that only inside the kernel's own send
/// timeout (`SO_SNDTIMEO`): use non-blocking sockets where the peer is not trusted.
///
/// # Errors
/// Those of [`send`], or [`FdPassError::Deadline`].
pub fn send_all(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
) -> Result<(), FdPassError> {
    let mut done = 0;
    while done < bytes.len() {
        let attach = if done == 0 { fds } else { &[] };
        match send(&socket, &bytes[done..], attach) {
            Ok(sent) => done += sent,
            Err(error) if error.is_would_block() => {
                let ready =
                    wait::writable(&socket, deadline).map_err(|source| FdPassError::Send {
                        bytes: bytes.len(),
                        fds: fds.len(),
                        source,
                    })?;
                if !ready {
                    return Err(FdPassError::Deadline {
                        done,
                        wanted: bytes.len(),
                    });
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives once: up to `buffer.len()` bytes and up to `fds_max` descriptors (never more than
/// [`FDS_MAX`]). Blocks if the socket does.
///
/// # Errors
/// [`FdPassError::Receive`].
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds_max: usize,
) -> Result<Received, FdPassError> {
    let wanted = buffer.len();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let iov = &mut [IoSliceMut::new(buffer)];
        let message = match rustix::net::recvmsg(&socket, iov, &mut control, flags) {
            Ok(message) => message,
            Err(Errno::INTR) => continue,
            Err(errno) => {
                return Err(FdPassError::Receive {
                    bytes: wanted,
                    source: errno.into(),
                });
            }
        };
        // Every descriptor is taken out as owned, so that the ones too many close here.
        let mut fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let kept = fds_max.min(FDS_MAX);
        let excess = fds.len() > kept;
        fds.truncate(kept);
        return Ok(Received {
            bytes: message.bytes,
            fds,
            fds_lost: excess || message.flags.contains(ReturnFlags::CTRUNC),
            bytes_lost: message.flags.contains(ReturnFlags::TRUNC),
        });
    }
}

/// Fills `buffer` from a stream socket, waiting until `deadline`; returns the descriptors that
/// came with it (at most `fds_max`, in order) and whether some were lost.
///
/// # Errors
/// [`FdPassError::Closed`] when the peer closes first, [`FdPassError::Deadline`], or
/// [`FdPassError::Receive`].
pub fn receive_exact(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds_max: usize,
    deadline: Instant,
) -> Result<Received, FdPassError> {
    let wanted = buffer.len();
    let mut all = Received {
        bytes: 0,
        fds: Vec::new(),
        fds_lost: false,
        bytes_lost: false,
    };
    while all.bytes < wanted {
        // Waiting first keeps the deadline on blocking sockets too.
        let ready = wait::readable(&socket, deadline).map_err(|source| FdPassError::Receive {
            bytes: wanted,
            source,
        })?;
        if !ready {
            return Err(FdPassError::Deadline {
                done: all.bytes,
                wanted,
            });
        }
        let room = fds_max.saturating_sub(all.fds.len());
        match receive(&socket, &mut buffer[all.bytes..], room) {
            Ok(part) if part.bytes == 0 => {
                return Err(FdPassError::Closed {
                    received: all.bytes,
                    wanted,
                });
            }
            Ok(part) => {
                all.bytes += part.bytes;
                all.fds.extend(part.fds);
                all.fds_lost |= part.fds_lost;
                all.bytes_lost |= part.bytes_lost;
            }
            Err(error) if error.is_would_block() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
