//! CRIU's image streamer protocol, and descriptors over tokio's sockets.
//!
//! CRIU asks with a u32 length and a message `{1: filename}`; in a restore it is answered with a
//! u32 length and `{1: exists}`; then it sends one byte with one end of a new pipe. The other side
//! is trusted no more than its images: names are plain file names, lengths are bounded.

use std::{io, os::fd::OwnedFd};

use lifeboat_sys::fdpass;
use prost::Message;
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

/// Longest name of an image file, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Longest request, in bytes: a name, its tag and its length.
const REQUEST_BYTES_MAX: usize = NAME_BYTES_MAX + 8;

/// Why the conversation with CRIU failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("talk to criu")]
    Socket(#[source] io::Error),
    /// CRIU said something that is not part of the protocol.
    #[error("criu broke its protocol: {0}")]
    Protocol(&'static str),
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, required, tag = "1")]
    filename: String,
}

#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(bool, required, tag = "1")]
    exists: bool,
}

/// What came from CRIU and was not taken yet. All its methods can be cancelled and called again:
/// what has arrived stays here.
#[derive(Debug)]
pub(crate) struct Inbox {
    socket: UnixStream,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// An answer of [`Inbox`].
#[derive(Debug)]
pub(crate) enum Got<T> {
    /// It is here.
    Here(T),
    /// CRIU has closed its end before the first byte.
    End,
    /// It is not here yet.
    NotYet,
}

impl Inbox {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            bytes: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// The next `length` bytes; with `wait`, never [`Got::NotYet`]. A descriptor that comes with
    /// them is kept for [`Inbox::descriptor`].
    async fn exactly(&mut self, length: usize, wait: bool) -> Result<Got<Vec<u8>>, WireError> {
        while self.bytes.len() < length {
            let mut buffer = vec![0; length - self.bytes.len()];
            // Without waiting the kernel is asked, not tokio, which may not know yet.
            let received = if wait {
                let take = || receive(&self.socket, &mut buffer);
                self.socket.async_io(Interest::READABLE, take).await
            } else {
                receive(&self.socket, &mut buffer)
            };
            let received = match received {
                Err(error) if !wait && error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Got::NotYet);
                }
                received => received.map_err(WireError::Socket)?,
            };
            self.fds.extend(received.fds);
            match received.bytes {
                0 if self.bytes.is_empty() => return Ok(Got::End),
                0 => return Err(WireError::Protocol("it ended inside of a message")),
                bytes => self.bytes.extend_from_slice(&buffer[..bytes]),
            }
        }
        Ok(Got::Here(std::mem::take(&mut self.bytes)))
    }

    /// The next `length` bytes; `None`: the end came before the first.
    pub(crate) async fn bytes(&mut self, length: usize) -> Result<Option<Vec<u8>>, WireError> {
        match self.exactly(length, true).await? {
            Got::Here(bytes) => Ok(Some(bytes)),
            Got::End | Got::NotYet => Ok(None),
        }
    }

    /// The descriptor that comes with one byte.
    pub(crate) async fn descriptor(&mut self) -> Result<OwnedFd, WireError> {
        match self.exactly(1, true).await? {
            Got::Here(_) => self.take_descriptor(),
            Got::End | Got::NotYet => Err(WireError::Protocol("it ended before a descriptor")),
        }
    }

    fn take_descriptor(&mut self) -> Result<OwnedFd, WireError> {
        let fd = self
            .fds
            .pop()
            .ok_or(WireError::Protocol("a descriptor is missing"))?;
        if self.fds.is_empty() {
            Ok(fd)
        } else {
            Err(WireError::Protocol("too many descriptors"))
        }
    }

    /// Says whether a file exists.
    pub(crate) async fn reply(&mut self, exists: bool) -> Result<(), WireError> {
        let message = Reply { exists }.encode_to_vec();
        let length = u32::try_from(message.len()).expect("two bytes");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(message);
        self.socket
            .write_all(&bytes)
            .await
            .map_err(WireError::Socket)
    }
}

/// Receives once, with at most one descriptor.
fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<fdpass::Received> {
    fdpass::receive(socket, buffer, 1).map_err(|error| match error {
        fdpass::FdPassError::Receive { source, .. } => source,
        other => io::Error::other(other),
    })
}

/// The files that CRIU asks for, one after the other.
#[derive(Debug)]
pub(crate) struct FileRequests {
    pub(crate) inbox: Inbox,
    stage: Stage,
}

/// What comes next from CRIU.
#[derive(Debug)]
enum Stage {
    Length,
    Name(usize),
    Pipe(String),
}

impl FileRequests {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            inbox: Inbox::new(socket),
            stage: Stage::Length,
        }
    }

    /// The next file's name. To be followed by [`Inbox::reply`] and [`Inbox::descriptor`].
    pub(crate) async fn name(&mut self) -> Result<Option<String>, WireError> {
        match self.name_or_pipe(true).await? {
            Got::Here(()) => {}
            Got::End | Got::NotYet => return Ok(None),
        }
        match std::mem::replace(&mut self.stage, Stage::Length) {
            Stage::Pipe(name) => Ok(Some(name)),
            Stage::Length | Stage::Name(_) => Err(WireError::Protocol("a name is missing")),
        }
    }

    /// The next file's name and pipe, in a dump. With `wait`, never [`Got::NotYet`].
    pub(crate) async fn file(&mut self, wait: bool) -> Result<Got<(String, OwnedFd)>, WireError> {
        match self.name_or_pipe(wait).await? {
            Got::Here(()) => {}
            Got::End => return Ok(Got::End),
            Got::NotYet => return Ok(Got::NotYet),
        }
        match self.inbox.exactly(1, wait).await? {
            Got::Here(_) => {}
            Got::End => return Err(WireError::Protocol("it ended before a descriptor")),
            Got::NotYet => return Ok(Got::NotYet),
        }
        let pipe = self.inbox.take_descriptor()?;
        match std::mem::replace(&mut self.stage, Stage::Length) {
            Stage::Pipe(name) => Ok(Got::Here((name, pipe))),
            Stage::Length | Stage::Name(_) => Err(WireError::Protocol("a name is missing")),
        }
    }

    /// Goes on until the stage is [`Stage::Pipe`].
    async fn name_or_pipe(&mut self, wait: bool) -> Result<Got<()>, WireError> {
        loop {
            let length = match &self.stage {
                Stage::Length => 4,
                Stage::Name(length) => *length,
                Stage::Pipe(_) => return Ok(Got::Here(())),
            };
            let bytes = match self.inbox.exactly(length, wait).await? {
                Got::Here(bytes) => bytes,
                Got::NotYet => return Ok(Got::NotYet),
                Got::End if matches!(self.stage, Stage::Length) => return Ok(Got::End),
                Got::End => return Err(WireError::Protocol("it ended inside of a request")),
            };
            self.stage = match &self.stage {
                Stage::Length => Stage::Name(request_length(&bytes)?),
                Stage::Name(_) | Stage::Pipe(_) => Stage::Pipe(request_name(&bytes)?),
            };
        }
    }
}

fn request_length(bytes: &[u8]) -> Result<usize, WireError> {
    let word = <[u8; 4]>::try_from(bytes).ok().map(u32::from_ne_bytes);
    word.and_then(|word| usize::try_from(word).ok())
        .filter(|length| (1..=REQUEST_BYTES_MAX).contains(length))
        .ok_or(WireError::Protocol(
            "the length of a request is out of range",
        ))
}

fn request_name(bytes: &[u8]) -> Result<String, WireError> {
    let request =
        Request::decode(bytes).map_err(|_| WireError::Protocol("a request cannot be decoded"))?;
    if is_plain_name(&request.filename) {
        Ok(request.filename)
    } else {
        Err(WireError::Protocol("a request does not name a plain file"))
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte < b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        for good in ["inventory.img", "core-1001.img", "tmpfs-12.tar.gz.img"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/etc/passwd",
            "a\0",
            "a\n",
            &"x".repeat(256),
        ] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
