//! The daemon's end of the page filter's socket. What the filter does is written in
//! `daemon/preload/src/lib.rs`, what both say in `protocol.rs` there.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use lifeboat_proto::units::PageRun;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};
use tokio::{io::Interest, net::UnixStream};

use crate::{DumpDelegate, ImageError, protocol};

/// How long the filter waits for an answer before it fails CRIU's call.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

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
    #[error("find the hidden pages of process {pid}")]
    Delegate {
        /// PID as CRIU sees it.
        pid: u32,
        /// Why.
        source: ImageError,
    },
    /// The delegate named too many or unordered runs.
    #[error("hidden pages of process {pid} are not ascending, disjoint and at most {max} runs",
        max = protocol::RANGES_MAX)]
    Runs {
        /// PID as CRIU sees it.
        pid: u32,
    },
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
    while let Some(pid) = question(&socket).await? {
        if !frozen {
            delegate.frozen();
            frozen = true;
        }
        let asked = Arc::clone(&delegate);
        let hidden = tokio::task::spawn_blocking(move || asked.hidden(pid)).await;
        let runs = match hidden {
            Ok(Ok(runs)) => runs,
            Ok(Err(source)) => return Err(FilterError::Delegate { pid, source }),
            Err(panic) => {
                return Err(FilterError::Delegate {
                    pid,
                    source: panic.into(),
                });
            }
        };
        let ranges = ranges(&runs).ok_or(FilterError::Runs { pid })?;
        answer(&socket, &ranges).await?;
    }
    Ok(())
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

/// The process that is asked about; `None` at the end.
async fn question(socket: &UnixStream) -> Result<Option<u32>, FilterError> {
    let mut bytes = [0; protocol::QUESTION_BYTES];
    let received = socket
        .async_io(Interest::READABLE, || {
            let (_, length) = recv(socket, &mut bytes[..], RecvFlags::TRUNC)?;
            Ok(length)
        })
        .await
        .map_err(FilterError::Socket)?;
    let (magic, pid) = bytes.split_at(4);
    match received {
        0 => Ok(None),
        protocol::QUESTION_BYTES if magic == protocol::QUESTION_MAGIC.to_ne_bytes() => {
            let pid = pid
                .try_into()
                .map_err(|_| FilterError::Question(received))?;
            Ok(Some(u32::from_ne_bytes(pid)))
        }
        _ => Err(FilterError::Question(received)),
    }
}

async fn answer(socket: &UnixStream, ranges: &[(u64, u64)]) -> Result<(), FilterError> {
    let mut head = [0; protocol::ANSWER_BYTES];
    head[..4].copy_from_slice(&protocol::ANSWER_MAGIC.to_ne_bytes());
    let count = u64::try_from(ranges.len()).expect("at most RANGES_MAX");
    head[8..].copy_from_slice(&count.to_ne_bytes());
    send_message(socket, &head).await?;

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
