//! Peers of Unix sockets, as the kernel knows them.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    time::Instant,
};

use lifeboat_sys::peer::{self, PeerError};

use crate::support;

#[test]
fn a_connected_client_is_known_by_user_groups_and_pidfd() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let child = support::fork(|| {
        let groups: Vec<libc::gid_t> = (1000..1100).collect();
        // SAFETY: the list is valid for its length.
        assert_eq!(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }, 0);
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setgid(4243) }, 0);
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setuid(4242) }, 0);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    });
    let (mut stream, _) = listener.accept().unwrap();
    let peer = peer::identify(&stream).unwrap();
    assert_eq!(peer.pid, Some(child.pid));
    assert_eq!((peer.uid, peer.gid), (4242, 4243));
    assert_eq!(peer.groups, (1000..1100).collect::<Vec<_>>());

    // The pidfd is that of the client: it reports its end.
    let pidfd = peer.pidfd.unwrap();
    assert!(pidfd.is_alive());
    stream.write_all(b"x").unwrap();
    child.assert_success();
    assert!(pidfd.wait_exit(Instant::now() + support::PATIENCE).unwrap());
}

#[test]
fn a_client_that_is_gone_is_not_identified() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    support::fork(|| drop(UnixStream::connect(&path).unwrap())).assert_success();
    let (stream, _) = listener.accept().unwrap();
    let error = peer::identify(&stream).unwrap_err();
    assert!(matches!(error, PeerError::Gone { .. }), "{error}");
}

#[test]
fn what_is_not_a_unix_socket_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(
        peer::identify(&file),
        Err(PeerError::Option { .. })
    ));
}
