//! One connection of the hold protocol: length-prefixed messages with descriptors.
//!
//! The peer is not trusted: frames are bounded, a frame that is not understood ends the connection,
//! and a peer that does not read is given up after [`SEND_TIMEOUT`].

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use lifeboat_proto::{
    HOLD_FRAME_BYTES_MAX,
    hold::{ToDaemon, ToHold},
};
use lifeboat_sys::fdpass::{self, FdPassError};
use prost::Message as _;
use tokio::{io::Interest, net::UnixStream, time::timeout};

/// Longest time that a hold may take to read what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Most descriptors that ride on one frame.
const FRAME_DESCRIPTORS_MAX: usize = fdpass::FDS_MAX;

/// Why a conversation with a hold ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection is gone.
    #[error("the hold closed the connection")]
    Closed,
    /// The peer sent something that is not a frame of this protocol.
    #[error("the hold sent a frame of {bytes} bytes that is not understood")]
    Malformed {
        /// Its claimed size.
        bytes: usize,
    },
    /// The peer said something that does not belong here.
    #[error("the hold said something that does not belong here")]
    Unexpected,
    /// The system refused.
    #[error("talk to the hold")]
    Socket(#[source] FdPassError),
    /// The system refused.
    #[error("wait for the hold's socket")]
    Wait(#[source] io::Error),
    /// The hold does not read.
    #[error("the hold has not read for {SEND_TIMEOUT:?}")]
    Stuck,
}

/// A connection to a hold.
#[derive(Debug)]
pub struct HoldConnection {
    stream: UnixStream,
}

impl HoldConnection {
    /// A conversation over `stream`, whose preface was read.
    #[must_use]
    pub const fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The next message and the descriptors that ride on it.
    ///
    /// Not cancel-safe: a dropped call may have read half of a frame.
    ///
    /// # Errors
    /// When the connection is gone or the peer does not keep to the protocol.
    pub async fn receive(&self) -> Result<(ToDaemon, Vec<OwnedFd>), WireError> {
        let mut descriptors = Vec::new();
        let mut length = [0; 4];
        self.fill(&mut length, &mut descriptors).await?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > HOLD_FRAME_BYTES_MAX {
            return Err(WireError::Malformed { bytes });
        }
        let mut frame = vec![0; bytes];
        self.fill(&mut frame, &mut descriptors).await?;
        let message =
            ToDaemon::decode(frame.as_slice()).map_err(|_| WireError::Malformed { bytes })?;
        Ok((message, descriptors))
    }

    async fn fill(
        &self,
        mut buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        while !buffer.is_empty() {
            self.stream.readable().await.map_err(WireError::Wait)?;
            let got = self.attempt(Interest::READABLE, |stream| {
                fdpass::receive(stream, buffer, FRAME_DESCRIPTORS_MAX)
            })?;
            let Some(received) = got else { continue };
            if received.bytes == 0 {
                return Err(WireError::Closed);
            }
            descriptors.extend(received.fds);
            if received.fds_lost || descriptors.len() > FRAME_DESCRIPTORS_MAX {
                return Err(WireError::Malformed {
                    bytes: received.bytes,
                });
            }
            buffer = &mut buffer[received.bytes..];
        }
        Ok(())
    }

    /// Sends a message; `descriptors` ride on its first byte.
    ///
    /// Not cancel-safe: a dropped call may have sent half of a frame.
    ///
    /// # Errors
    /// When the connection is gone or the peer does not read.
    pub async fn send(
        &self,
        message: &ToHold,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        let body = message.encode_to_vec();
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| *length as usize <= HOLD_FRAME_BYTES_MAX)
            .ok_or(WireError::Malformed { bytes: body.len() })?;
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&body);
        timeout(SEND_TIMEOUT, self.drain(&frame, descriptors))
            .await
            .map_err(|_| WireError::Stuck)?
    }

    async fn drain(
        &self,
        mut bytes: &[u8],
        mut descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            self.stream.writable().await.map_err(WireError::Wait)?;
            let sent = self.attempt(Interest::WRITABLE, |stream| {
                fdpass::send(stream, bytes, descriptors)
            })?;
            if let Some(sent) = sent {
                bytes = &bytes[sent..];
                descriptors = &[];
            }
        }
        Ok(())
    }

    /// Runs a system call on the ready socket; `None` when it was not ready after all.
    fn attempt<T>(
        &self,
        interest: Interest,
        call: impl FnOnce(BorrowedFd<'_>) -> Result<T, FdPassError>,
    ) -> Result<Option<T>, WireError> {
        let mut failure = None;
        let result = self.stream.try_io(interest, || {
            call(self.stream.as_fd()).map_err(|error| {
                if error.is_would_block() {
                    return io::ErrorKind::WouldBlock.into();
                }
                failure = Some(error);
                io::Error::other("the call failed")
            })
        });
        match (result, failure) {
            (Ok(value), _) => Ok(Some(value)),
            (Err(_), Some(error)) if error.is_disconnected() => Err(WireError::Closed),
            (Err(_), Some(error)) => Err(WireError::Socket(error)),
            (Err(_), None) => Ok(None),
        }
    }
}
