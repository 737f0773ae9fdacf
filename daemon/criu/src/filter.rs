//! The daemon's end of the page filter's socket. What the filter does is written in
//! `daemon/preload/src/lib.rs`, what both say in `protocol.rs` there.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use lifeboat_proto::units::PageRun;
use lifeboat_sys::fdpass::{self, FdPassError};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};
use tokio::{io::Interest, net::UnixStream};

use crate::{DumpDelegate, ImageError, protocol};

/// How long the filter waits for an answer before it fails CRIU's call.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Whose pages the filter asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process, by its PID as CRIU sees it.
    Process(u32),
    /// A shared memory object.
    Object(SharedObject),
}

/// A shared memory object: anonymous shared memory, a memfd, System V shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedObject {
    /// Device, as stat(2) tells it.
    pub device: u64,
    /// Inode. CRIU names its images after its low 32 bits (`pagemap-shmem-INODE.img`).
    pub inode: u64,
}

/// Why the filter could not be served. The dump is aborted.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The socket failed.
    #[error("talk to the page filter")]
    Socket(#[source] io::Error),
    /// The filter said something else than a question.
    #[error("the page filter sent {0} bytes that are not a question")]
    Question(usize),
    /// The delegate did not say what is hidden.
    #[error("find the hidden pages of {owner:?}")]
    Delegate {
        /// Whose.
        owner: Owner,
        /// Why.
        source: ImageError,
    },
    /// The delegate named too many or unordered runs.
    #[error("hidden pages of {owner:?} are not ascending, disjoint and at most {max} runs",
        max = protocol::RANGES_MAX)]
    Runs {
        /// Whose.
        owner: Owner,
    },
}

/// What the filter asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Hidden(Owner),
    Smaps(u32),
}

/// Makes the socket: the daemon's end, and the one that CRIU inherits.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    sockopt::set_socket_timeout(&theirs, sockopt::Timeout::Recv, Some(ANSWER_WITHIN))?;
    sockopt::set_socket_timeout(&theirs, sockopt::Timeout::Send, Some(ANSWER_WITHIN))?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    // tokio has no type for this kind of socket; only its readiness is used, never its streams.
    Ok((UnixStream::from_std(ours.into())?, theirs))
}

/// Answers questions until CRIU has closed its end.
pub(crate) async fn serve(
    socket: UnixStream,
    delegate: Arc<dyn DumpDelegate>,
) -> Result<(), FilterError> {
    let mut frozen = false;
    while let Some(question) = question(&socket).await? {
        if !frozen {
            delegate.frozen();
            frozen = true;
        }
        let delegate = Arc::clone(&delegate);
        match question {
            Question::Hidden(owner) => {
                let hidden = tokio::task::spawn_blocking(move || match owner {
                    Owner::Process(pid) => delegate.hidden(pid),
                    Owner::Object(object) => delegate.hidden_object(object),
                });
                let runs = hidden.await.unwrap_or_else(|panic| Err(panic.into()));
                let runs = runs.map_err(|source| FilterError::Delegate { owner, source })?;
                let ranges = ranges(&runs).ok_or(FilterError::Runs { owner })?;
                answer(&socket, &ranges).await?;
            }
            Question::Smaps(pid) => {
                let file = tokio::task::spawn_blocking(move || {
                    delegate.smaps(pid).map(|text| in_memory(&text)).transpose()
                });
                let file = file
                    .await
                    .unwrap_or_else(|panic| Err(io::Error::other(panic)));
                let file = file.map_err(FilterError::Socket)?;
                answer_smaps(&socket, file).await?;
            }
        }
    }
    Ok(())
}

/// A file in memory, to be read from its beginning.
fn in_memory(text: &[u8]) -> io::Result<File> {
    let fd = rustix::fs::memfd_create("smaps", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}

/// The runs as address ranges, adjacent ones joined; `None` if they are not in order.
fn ranges(runs: &[PageRun]) -> Option<Vec<(u64, u64)>> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for run in runs.iter().filter(|run| !run.is_empty()) {
        let (start, end) = (run.start.addr().0, run.end().addr().0);
        if start >= end {
            return None;
        }
        match ranges.last_mut() {
            Some(last) if last.1 > start => return None,
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    (ranges.len() <= protocol::RANGES_MAX).then_some(ranges)
}

/// The next question; `None` at the end.
async fn question(socket: &UnixStream) -> Result<Option<Question>, FilterError> {
    let mut bytes = [0; protocol::QUESTION_BYTES];
    let receive = || Ok(recv(socket, &mut bytes[..], RecvFlags::TRUNC)?.1);
    let received = socket.async_io(Interest::READABLE, receive).await;
    match received.map_err(FilterError::Socket)? {
        0 => Ok(None),
        protocol::QUESTION_BYTES => {
            let question = parse(&bytes);
            question
                .map(Some)
                .ok_or(FilterError::Question(protocol::QUESTION_BYTES))
        }
        other => Err(FilterError::Question(other)),
    }
}

fn parse(bytes: &[u8; protocol::QUESTION_BYTES]) -> Option<Question> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (magic, kind, a, b) = (word(0)?, word(4)?, long(8)?, long(16)?);
    match (magic, kind) {
        (protocol::QUESTION_MAGIC, protocol::ASK_PROCESS) => {
            Some(Question::Hidden(Owner::Process(a.try_into().ok()?)))
        }
        (protocol::QUESTION_MAGIC, protocol::ASK_OBJECT) => {
            Some(Question::Hidden(Owner::Object(SharedObject {
                device: a,
                inode: b,
            })))
        }
        (protocol::QUESTION_MAGIC, protocol::ASK_SMAPS) => {
            Some(Question::Smaps(a.try_into().ok()?))
        }
        _ => None,
    }
}

/// An answer's first message.
fn head(count: usize) -> [u8; protocol::ANSWER_BYTES] {
    let mut head = [0; protocol::ANSWER_BYTES];
    head[..4].copy_from_slice(&protocol::ANSWER_MAGIC.to_ne_bytes());
    let count = u64::try_from(count).expect("at most RANGES_MAX");
    head[8..].copy_from_slice(&count.to_ne_bytes());
    head
}

async fn answer_smaps(socket: &UnixStream, file: Option<File>) -> Result<(), FilterError> {
    let fds: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    let head = head(fds.len());
    let send = || match fdpass::send(socket, &head, &fds) {
        Ok(_) => Ok(()),
        Err(FdPassError::Send { source, .. }) => Err(source),
        Err(other) => Err(io::Error::other(other)),
    };
    socket
        .async_io(Interest::WRITABLE, send)
        .await
        .map_err(FilterError::Socket)
}

async fn answer(socket: &UnixStream, ranges: &[(u64, u64)]) -> Result<(), FilterError> {
    send_message(socket, &head(ranges.len())).await?;

    let mut message = Vec::with_capacity(protocol::RANGES_PER_MESSAGE * protocol::RANGE_BYTES);
    for part in ranges.chunks(protocol::RANGES_PER_MESSAGE) {
        message.clear();
        for (start, end) in part {
            message.extend_from_slice(&start.to_ne_bytes());
            message.extend_from_slice(&end.to_ne_bytes());
        }
        send_message(socket, &message).await?;
    }
    Ok(())
}

async fn send_message(socket: &UnixStream, message: &[u8]) -> Result<(), FilterError> {
    socket
        .async_io(Interest::WRITABLE, || {
            Ok(send(socket, message, SendFlags::NOSIGNAL)?)
        })
        .await
        .map(|_| ())
        .map_err(FilterError::Socket)
}

#[cfg(test)]
mod tests {
    use lifeboat_proto::units::PageIndex;

    use super::*;

    #[test]
    fn adjacent_runs_are_joined_and_unordered_ones_refused() {
        let run = |start, pages| PageRun::new(PageIndex(start), pages);
        let joined = ranges(&[run(1, 2), run(3, 1), run(9, 0), run(7, 1)]);
        assert_eq!(joined, Some(vec![(0x1000, 0x4000), (0x7000, 0x8000)]));
        assert_eq!(ranges(&[run(3, 1), run(1, 1)]), None);
        assert_eq!(ranges(&[run(1, 3), run(2, 1)]), None);
        assert_eq!(ranges(&[run(u64::MAX, 3)]), None);
    }
}
