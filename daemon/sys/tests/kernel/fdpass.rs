//! Descriptors over Unix sockets, against the kernel.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use crate::support;
use lifeboat_sys::fdpass::{self, FDS_MAX, FdPassError};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

const PATIENCE: Duration = Duration::from_secs(10);

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

/// A file whose content says which one it is.
fn marked(mark: u8) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[mark]).unwrap();
    file.rewind().unwrap();
    file
}

fn mark_of(fd: &OwnedFd) -> u8 {
    let mut mark = [0];
    File::from(fd.try_clone().unwrap())
        .read_exact(&mut mark)
        .unwrap();
    mark[0]
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

#[test]
fn descriptors_arrive_in_order_with_their_bytes_and_close_on_exec() {
    for kind in [SocketType::STREAM, SocketType::SEQPACKET] {
        let (near, far) = pair(kind);
        let files = [marked(1), marked(2), marked(3)];
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        assert_eq!(fdpass::send(&near, b"hello", &fds).unwrap(), 5);
        let mut buffer = [0; 16];
        let got = fdpass::receive(&far, &mut buffer, 3).unwrap();
        assert_eq!(&buffer[..got.bytes], b"hello");
        assert_eq!(got.fds.iter().map(mark_of).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(!got.fds_lost && !got.bytes_lost);
        for fd in &got.fds {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}

// One test, since it counts the descriptors of the whole process.
#[test]
fn descriptors_nobody_asked_for_are_closed_and_counted() {
    // In a process of its own, as other tests open descriptors all the time.
    let child = support::fork(|| {
        let (near, far) = pair(SocketType::SEQPACKET);
        let file = marked(7);
        let fds = vec![file.as_fd(); FDS_MAX];
        let before = open_fds();
        let mut buffer = [0; 4];
        fdpass::send(&near, b"x", &fds).unwrap();
        let got = fdpass::receive(&far, &mut buffer, 1).unwrap();
        assert_eq!((got.fds.len(), got.fds_lost), (1, true));
        drop(got);
        fdpass::send(&near, b"x", &fds).unwrap();
        let got = fdpass::receive(&far, &mut buffer, 0).unwrap();
        assert_eq!((got.fds.len(), got.fds_lost), (0, true));
        // More than the limit, from a peer that does not use this code.
        send_raw(&near, &vec![file.as_fd(); FDS_MAX + 20]);
        let got = fdpass::receive(&far, &mut buffer, usize::MAX).unwrap();
        assert_eq!((got.fds.len(), got.fds_lost), (FDS_MAX, true));
        drop(got);
        assert_eq!(open_fds(), before);
    });
    child.assert_success();
}

fn send_raw(socket: &OwnedFd, fds: &[BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let iov = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(socket, &iov, &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn a_long_stream_carries_descriptors_with_its_first_bytes_only() {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let file = marked(9);
    std::thread::scope(|scope| {
        scope.spawn(|| fdpass::send_all(&near, &sent, &[file.as_fd()], deadline()).unwrap());
        let mut got = vec![0; sent.len()];
        let all = fdpass::receive_exact(&far, &mut got, 4, deadline()).unwrap();
        assert_eq!(all.fds.iter().map(mark_of).collect::<Vec<_>>(), [9]);
        assert!(got == sent);
    });
}

#[test]
fn empty_full_closed_and_late_are_told_apart() {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    near.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8];
    assert!(
        fdpass::receive(&far, &mut buffer, 0)
            .unwrap_err()
            .is_would_block()
    );

    let soon = Instant::now() + Duration::from_millis(20);
    let late = fdpass::receive_exact(&far, &mut buffer, 0, soon).unwrap_err();
    assert!(
        matches!(late, FdPassError::Deadline { done: 0, wanted: 8 }),
        "{late}"
    );
    let full = fdpass::send_all(&near, &vec![0; 10_000_000], &[], soon).unwrap_err();
    assert!(matches!(full, FdPassError::Deadline { .. }), "{full}");

    let (near, far) = UnixStream::pair().unwrap();
    fdpass::send(&near, b"abc", &[]).unwrap();
    drop(near);
    let closed = fdpass::receive_exact(&far, &mut buffer, 0, deadline()).unwrap_err();
    assert!(
        matches!(
            closed,
            FdPassError::Closed {
                received: 3,
                wanted: 8
            }
        ),
        "{closed}"
    );
    assert!(closed.is_disconnected());
    assert!(fdpass::send(&far, b"x", &[]).unwrap_err().is_disconnected());
}

#[test]
fn a_message_cut_short_is_said_to_be() {
    let (near, far) = pair(SocketType::SEQPACKET);
    fdpass::send(&near, b"abcdef", &[]).unwrap();
    let mut buffer = [0; 3];
    let got = fdpass::receive(&far, &mut buffer, 0).unwrap();
    assert_eq!((got.bytes, got.bytes_lost), (3, true));
}

#[test]
fn sending_too_much_at_once_is_refused() {
    let (near, _far) = pair(SocketType::STREAM);
    let fds = vec![near.as_fd(); FDS_MAX + 1];
    assert!(matches!(
        fdpass::send(&near, b"x", &fds),
        Err(FdPassError::TooMany { .. })
    ));
    assert!(matches!(
        fdpass::send(&near, b"", &fds[..1]),
        Err(FdPassError::TooMany { .. })
    ));
    assert!(near.as_raw_fd() >= 0);
}
