//! Unix sockets with their peers, asked of the kernel by sock_diag(7).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with, sockopt,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Most sockets of a namespace that are listed.
const SOCKETS_MAX: usize = 500_000;

/// Longest wait for an answer of the kernel.
const ANSWER_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// SOCK_STREAM and SOCK_SEQPACKET: connected for good. (SOCK_DGRAM is 2.)
const DATAGRAM: u8 = 2;

/// A Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixSocket {
    pub(crate) datagram: bool,
    /// Inode of the socket at the other end; 0 for none.
    pub(crate) peer: u32,
    /// Its address: a path, or `@name` for an abstract one. Empty for none.
    pub(crate) name: String,
}

/// The Unix sockets of a network namespace by inode. `namespace` is a descriptor of it, or `None` for
/// this process's own.
pub(crate) fn sockets(namespace: Option<OwnedFd>) -> io::Result<HashMap<u32, UnixSocket>> {
    let Some(namespace) = namespace else {
        return ask();
    };
    // A thread of its own enters the namespace and ends in it.
    let asker = thread::Builder::new()
        .name("unix-diag".to_owned())
        .spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            ask()
        })?;
    asker
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that asks panicked")))
}

fn ask() -> io::Result<HashMap<u32, UnixSocket>> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_WAIT))?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut found = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        match take(&buffer[..length], &mut found)? {
            Answer::More if found.len() < SOCKETS_MAX => {}
            Answer::More | Answer::Done => return Ok(found),
        }
    }
}

/// A netlink header and a unix_diag_req: all states, with names and peers.
fn request() -> Vec<u8> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
    const AF_UNIX: u8 = 1;
    const UDIAG_SHOW_NAME_PEER: u32 = 0x1 | 0x4;
    const LENGTH: u32 = 16 + 24;
    let mut out = Vec::new();
    out.extend_from_slice(&LENGTH.to_ne_bytes());
    out.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[AF_UNIX, 0, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&UDIAG_SHOW_NAME_PEER.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    More,
    Done,
}

/// Takes the sockets from one datagram of answers.
fn take(mut bytes: &[u8], found: &mut HashMap<u32, UnixSocket>) -> io::Result<Answer> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    while !bytes.is_empty() {
        let length = word(bytes, 0).and_then(|length| usize::try_from(length).ok());
        let kind = bytes
            .get(4..6)
            .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
        let message = length
            .filter(|&length| length >= 16)
            .and_then(|n| bytes.get(16..n));
        let (Some(message), Some(kind), Some(length)) = (message, kind, length) else {
            return Err(malformed());
        };
        match kind {
            NLMSG_DONE => return Ok(Answer::Done),
            NLMSG_ERROR => {
                let errno = word(message, 0).ok_or_else(malformed)?.cast_signed();
                return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
            }
            _ => {
                let (inode, socket) = parse(message).ok_or_else(malformed)?;
                found.insert(inode, socket);
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer::More)
}

/// A unix_diag_msg with its attributes.
fn parse(message: &[u8]) -> Option<(u32, UnixSocket)> {
    const UNIX_DIAG_NAME: u16 = 0;
    const UNIX_DIAG_PEER: u16 = 2;
    let inode = word(message, 4)?;
    let mut socket = UnixSocket {
        datagram: message[1] == DATAGRAM,
        ..UnixSocket::default()
    };
    let mut rest = message.get(16..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            UNIX_DIAG_NAME => socket.name = shown(value),
            UNIX_DIAG_PEER => socket.peer = word(value, 0)?,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode, socket))
}

/// An address for people: abstract ones begin with NUL.
fn shown(name: &[u8]) -> String {
    let text = match name.strip_prefix(b"\0") {
        Some(name) => format!("@{}", String::from_utf8_lossy(name)),
        None => String::from_utf8_lossy(name).into_owned(),
    };
    text.trim_end_matches('\0').to_owned()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed answer of sock_diag")
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::AsRawFd,
        unix::net::{UnixDatagram, UnixStream},
    };

    use super::*;

    fn inode(fd: &impl AsRawFd) -> u32 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap();
        link.trim_start_matches("socket:[")
            .trim_end_matches(']')
            .parse()
            .unwrap()
    }

    #[test]
    fn a_pair_is_found_with_both_ends() {
        let (a, b) = UnixStream::pair().unwrap();
        let place = tempfile::tempdir().unwrap();
        let bound = UnixDatagram::bind(place.path().join("named")).unwrap();
        let found = sockets(None).unwrap();
        assert_eq!(found[&inode(&a)].peer, inode(&b));
        assert_eq!(found[&inode(&b)].peer, inode(&a));
        assert!(!found[&inode(&a)].datagram && found[&inode(&bound)].datagram);
        assert_eq!(
            found[&inode(&bound)].name,
            place.path().join("named").to_str().unwrap()
        );
    }

    #[test]
    fn malformed_answers_are_errors() {
        let mut found = HashMap::new();
        let ok = [16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(take(&ok, &mut found).unwrap(), Answer::Done);
        for bad in [
            &[1, 2, 3][..],
            &[0; 16],
            &[255; 16],
            &[17, 0, 0, 0, 20, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            assert!(take(bad, &mut found).is_err(), "{bad:?}");
        }
    }
}
