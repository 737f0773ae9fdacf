//! Sockets.

use std::os::unix::net::{UnixDatagram, UnixListener};

use lifeboat_blockers::{Kind, Policy, Tcp};
use tempfile::tempdir;

use crate::program::{PYTHON, Program, expect, unshare};

#[test]
fn tcp_connections_are_told_with_what_the_policy_does() {
    let program = Program::start(
        "
listener = socket.create_server(('127.0.0.1', 0))
keep = [socket.create_connection(listener.getsockname()) for _ in range(3)]
said = keep[0].getsockname()[1]
",
    );
    let found = program.only(&Policy::default());
    let address = format!("127.0.0.1:{} with 127.0.0.1:", program.said);
    expect(
        &found,
        Kind::TcpConnection,
        false,
        &["3 established", &address, "reset", "`close`"],
    );
    program.proves(
        &Policy {
            tcp: Tcp::Keep,
            ..Policy::default()
        },
        Kind::TcpConnection,
        false,
        &["3 established", "same address", "`keep`"],
    );
}

#[test]
fn many_connections_are_one_report() {
    let command = &mut unshare(&["-n", "setsid", PYTHON]);
    let program = Program::start_by(
        command,
        "
import struct, fcntl
control = socket.socket()
fcntl.ioctl(control, 0x8914, struct.pack('16sH14x', b'lo', 0x41))       # lo up
listener = socket.create_server(('::1', 0), family=socket.AF_INET6, backlog=50)
keep = [socket.create_connection(listener.getsockname()[:2]) for _ in range(20)]
keep += [listener.accept() for _ in range(20)]
",
    );
    expect(
        &program.only(&Policy::default()),
        Kind::TcpConnection,
        false,
        &["40 established", "[::1]:", "37 more"],
    );
}

#[test]
fn sockets_of_unsupported_kinds_are_named() {
    let program = Program::start(
        "
made = []
for name, arguments in [('MPTCP', (2, 1, 262)), ('AF_VSOCK', (40, 1, 0)), ('XDP', (44, 3, 0)),
                        ('ALG', (38, 5, 0)), ('SCTP', (2, 1, 132)), ('TIPC', (30, 1, 0))]:
    try: made.append((name, socket.socket(*arguments)))
    except OSError: pass
said = ' '.join(name for name, _ in made)
",
    );
    let expected: Vec<&str> = program.said.split_whitespace().collect();
    assert!(!expected.is_empty(), "this kernel has none of them");
    let found = program.inspect(&Policy::default());
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for name in expected {
        let told = found
            .iter()
            .find(|blocker| blocker.detail.contains(&format!("type {name}")));
        expect(
            told.unwrap(),
            Kind::Socket,
            true,
            &["cannot be checkpointed"],
        );
    }
}

#[test]
fn unix_connections_to_others_are_told_with_their_address() {
    let place = tempdir().unwrap();
    let (stream, datagram) = (place.path().join("stream"), place.path().join("log"));
    let listener = UnixListener::bind(&stream).unwrap();
    let _log = UnixDatagram::bind(&datagram).unwrap();
    let connect = |kind: &str, path: &std::path::Path| {
        Program::start(&format!(
            "s = socket.socket(socket.AF_UNIX, {kind}); s.connect({path:?})"
        ))
    };
    let streaming = connect("socket.SOCK_STREAM", &stream);
    let _accepted = listener.accept().unwrap();
    let path = stream.to_str().unwrap();
    streaming.proves(&Policy::default(), Kind::UnixSocket, true, &[path]);
    let logging = connect("socket.SOCK_DGRAM", &datagram);
    let path = datagram.to_str().unwrap();
    logging.proves(
        &Policy::default(),
        Kind::UnixSocket,
        false,
        &[path, "must exist"],
    );
}

#[test]
fn unix_sockets_are_looked_up_in_the_workload_s_own_network_namespace() {
    let place = tempdir().unwrap();
    let path = place.path().join("stream");
    let listener = UnixListener::bind(&path).unwrap();
    let command = &mut unshare(&["-n", "setsid", PYTHON]);
    let program = Program::start_by(
        command,
        &format!(
            "
pair = socket.socketpair()
s = socket.socket(socket.AF_UNIX); s.connect({path:?})
said = s.fileno()
"
        ),
    );
    let _accepted = listener.accept().unwrap();
    let descriptor = format!("descriptor {} of", program.said);
    program.proves(&Policy::default(), Kind::UnixSocket, true, &[&descriptor]);
}
