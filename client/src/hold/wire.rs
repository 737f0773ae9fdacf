//! Frames of the hold protocol over a Unix stream socket: u32 length (little endian), then one
//! message; descriptors ride on a frame's first byte.
//!
//! Nothing here blocks: what cannot be sent yet is kept, up to [`OUTGOING_BYTES_MAX`]; a frame
//! larger than the protocol allows, or one that is not a message, is an error and ends the
//! connection. The peer being gone is an error too, never a signal.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use lifeboat_proto::HOLD_FRAME_BYTES_MAX;
use lifeboat_sys::fdpass::{self, FdPassError};
use prost::Message;

/// Most bytes that wait for a peer that does not read.
pub const OUTGOING_BYTES_MAX: usize = 4 * HOLD_FRAME_BYTES_MAX;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The kernel refused.
    #[error("talk over a unix socket")]
    Socket(#[source] FdPassError),
    /// The socket could not be made non-blocking.
    #[error("prepare a unix socket")]
    Prepare(#[source] io::Error),
    /// A frame is too large, ours or the peer's.
    #[error("a frame of {bytes} bytes is larger than {HOLD_FRAME_BYTES_MAX} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The peer does not read.
    #[error("the peer has left {bytes} bytes unread")]
    Stuck {
        /// Bytes that wait.
        bytes: usize,
    },
    /// A frame is not a message of the protocol.
    #[error("a frame of {bytes} bytes is not a message of this protocol")]
    Malformed {
        /// Its size.
        bytes: usize,
        /// What the decoder says.
        source: prost::DecodeError,
    },
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: VecDeque<Chunk>,
    descriptors: Vec<OwnedFd>,
    descriptors_lost: bool,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

impl Wire {
    /// A conversation over `socket`, which becomes non-blocking.
    ///
    /// # Errors
    /// [`WireError::Prepare`].
    pub fn new(socket: OwnedFd) -> Result<Self, WireError> {
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|errno| WireError::Prepare(errno.into()))?;
        Ok(Self {
            socket,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            descriptors: Vec::new(),
            descriptors_lost: false,
        })
    }

    /// The socket, for polling.
    #[must_use]
    pub const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends bytes that are not a frame (the preface), in a call of their own: descriptors of the
    /// next frame do not ride on them.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.queue(bytes.to_vec(), Vec::new())
    }

    /// Sends a message, or what fits of it now; the rest goes with [`Wire::flush`].
    ///
    /// # Errors
    /// When the message is too large or the peer is gone or does not read.
    pub fn send(
        &mut self,
        message: &impl Message,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        let bytes = message.encoded_len();
        let length = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= HOLD_FRAME_BYTES_MAX)
            .ok_or(WireError::TooLarge { bytes })?;
        let mut frame = Vec::with_capacity(LENGTH_BYTES + bytes);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&message.encode_to_vec());
        self.queue(frame, descriptors)
    }

    fn queue(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> Result<(), WireError> {
        let waiting: usize = self.outgoing.iter().map(|chunk| chunk.bytes.len()).sum();
        if waiting + bytes.len() > OUTGOING_BYTES_MAX {
            return Err(WireError::Stuck { bytes: waiting });
        }
        self.outgoing.push_back(Chunk {
            bytes,
            sent: 0,
            descriptors,
        });
        self.flush()
    }

    /// Whether something waits for room: poll for writing, then [`Wire::flush`].
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn flush(&mut self) -> Result<(), WireError> {
        while let Some(chunk) = self.outgoing.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = chunk.descriptors.iter().map(AsFd::as_fd).collect();
            match fdpass::send(&self.socket, &chunk.bytes[chunk.sent..], &fds) {
                Ok(sent) => {
                    chunk.sent += sent;
                    chunk.descriptors.clear();
                    if chunk.sent == chunk.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.is_would_block() => return Ok(()),
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }

    /// Reads what is there, once. Call it when the socket is readable, then take messages with
    /// [`Wire::next_message`].
    ///
    /// # Errors
    /// [`WireError::Closed`] at the end of the stream; messages read before can still be taken.
    pub fn receive(&mut self) -> Result<(), WireError> {
        let start = self.incoming.len();
        self.incoming.resize(start + READ_BYTES, 0);
        let result = fdpass::receive(&self.socket, &mut self.incoming[start..], fdpass::FDS_MAX);
        self.incoming
            .truncate(start + result.as_ref().map_or(0, |received| received.bytes));
        match result {
            Ok(received) if received.bytes == 0 => Err(WireError::Closed),
            Ok(received) => {
                self.descriptors.extend(received.fds);
                self.descriptors_lost |= received.fds_lost;
                Ok(())
            }
            Err(error) if error.is_would_block() => Ok(()),
            Err(error) => Err(lost(error)),
        }
    }

    /// Takes the next whole message, if there is one.
    ///
    /// # Errors
    /// When the peer does not keep to the protocol.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, WireError> {
        let Some((length, rest)) = self.incoming.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > HOLD_FRAME_BYTES_MAX {
            return Err(WireError::TooLarge { bytes });
        }
        let Some(body) = rest.get(..bytes) else {
            return Ok(None);
        };
        let message = M::decode(body).map_err(|source| WireError::Malformed { bytes, source })?;
        self.incoming.drain(..LENGTH_BYTES + bytes);
        Ok(Some(message))
    }

    /// Takes the descriptors that came since the last call, in order.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Whether descriptors were sent that this process had no room for.
    #[must_use]
    pub const fn lost_descriptors(&self) -> bool {
        self.descriptors_lost
    }
}

fn lost(error: FdPassError) -> WireError {
    if error.is_disconnected() {
        WireError::Closed
    } else {
        WireError::Socket(error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use lifeboat_proto::hold::{Note, Started};

    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        (
            Wire::new(one.into()).unwrap(),
            Wire::new(other.into()).unwrap(),
        )
    }

    #[test]
    fn messages_arrive_whole_in_order_and_with_their_descriptors() {
        let (mut one, mut other) = pair();
        let (reader, _writer) = io::pipe().unwrap();
        one.send(
            &Note {
                text: "a".repeat(100_000),
            },
            vec![reader.into()],
        )
        .unwrap();
        one.send(&Note { text: "b".into() }, Vec::new()).unwrap();
        let mut texts: Vec<String> = Vec::new();
        while texts.len() < 2 {
            one.flush().unwrap();
            other.receive().unwrap();
            while let Some(note) = other.next_message::<Note>().unwrap() {
                texts.push(note.text);
            }
        }
        assert_eq!(texts[0].len(), 100_000);
        assert_eq!(texts[1], "b");
        assert_eq!(other.take_descriptors().len(), 1);
    }

    #[test]
    fn a_peer_that_does_not_read_is_given_up() {
        let (mut one, _other) = pair();
        let note = Note {
            text: "x".repeat(HOLD_FRAME_BYTES_MAX - 16),
        };
        let refused = (0..8)
            .find_map(|_| one.send(&note, Vec::new()).err())
            .unwrap();
        assert!(matches!(refused, WireError::Stuck { .. }), "{refused:?}");
    }

    #[test]
    fn a_frame_that_is_too_large_or_no_message_is_refused() {
        let (mut one, mut other) = pair();
        one.send_raw(&u32::MAX.to_le_bytes()).unwrap();
        other.receive().unwrap();
        let refused = other.next_message::<Started>().unwrap_err();
        assert!(matches!(refused, WireError::TooLarge { .. }), "{refused:?}");

        let (mut one, mut other) = pair();
        one.send_raw(&[2, 0, 0, 0, 0xff, 0xff]).unwrap();
        other.receive().unwrap();
        let refused = other.next_message::<Started>().unwrap_err();
        assert!(
            matches!(refused, WireError::Malformed { bytes: 2, .. }),
            "{refused:?}"
        );
    }
}
