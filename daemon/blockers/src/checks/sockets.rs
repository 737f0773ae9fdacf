//! Sockets: families and protocols that CRIU knows, TCP connections, Unix sockets that lead out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use rustix::fs::{self, OFlags};

use crate::{
    blocker::{Findings, Kind},
    descriptors::Descriptor,
    inspect::{Scene, Tcp},
    process::Process,
    tcp::{self, Connection},
    unix_diag::{self, UnixSocket},
};

/// The attribute in which the kernel names a socket's protocol (net/socket.c).
const PROTOCOL_ATTRIBUTE: &str = "system.sockprotoname";

/// Connections that are named in a report; the others are counted.
const SHOWN_MAX: usize = 3;

/// What CRIU makes of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Unix,
    /// It is made again as it was.
    Described,
    Refused,
}

impl Protocol {
    /// By the name in [`PROTOCOL_ATTRIBUTE`].
    fn of(name: &str) -> Self {
        match name {
            "TCP" | "TCPv6" => Self::Tcp,
            "UNIX" | "UNIX-STREAM" => Self::Unix,
            "UDP" | "UDPv6" | "UDP-Lite" | "UDPLITE" | "UDPLITEv6" | "PING" | "PINGv6" | "RAW"
            | "RAWv6" | "PACKET" | "NETLINK" => Self::Described,
            _ => Self::Refused,
        }
    }
}

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    let mut networks = Networks::default();
    let mut connected: BTreeMap<u32, Vec<Connection>> = BTreeMap::new();
    let inodes: HashSet<u64> = sockets(scene).map(|socket| socket.file.inode).collect();
    let mut seen = HashSet::new();
    for socket in sockets(scene) {
        if !seen.insert(socket.file.inode) {
            continue;
        }
        let name = match protocol_name(socket) {
            Ok(name) => name,
            Err(error) => {
                let detail = format!("{} could not be looked at: {error}", socket.shown());
                findings.note(Kind::Unknown, socket.process.pid, detail);
                continue;
            }
        };
        match Protocol::of(&name) {
            Protocol::Described => {}
            Protocol::Refused => refused(socket, &name, findings),
            Protocol::Tcp => {
                let table = networks.of(socket.process, findings);
                if let Some(connection) = table.tcp.get(&socket.file.inode) {
                    connected
                        .entry(socket.process.pid)
                        .or_default()
                        .push(*connection);
                }
            }
            Protocol::Unix => unix(
                socket,
                &inodes,
                networks.of(socket.process, findings),
                findings,
            ),
        }
    }
    for (pid, connections) in connected {
        connections_of(scene, pid, &connections, findings);
    }
}

fn sockets<'a>(scene: &'a Scene<'_>) -> impl Iterator<Item = &'a Descriptor<'a>> {
    scene
        .descriptors
        .iter()
        .filter(|descriptor| descriptor.is_link("socket:["))
}

fn protocol_name(socket: &Descriptor<'_>) -> io::Result<String> {
    let path = socket.process.dir.path(&format!("fd/{}", socket.number));
    let mut name = [0; 64];
    let length = fs::getxattr(path, PROTOCOL_ATTRIBUTE, &mut name[..])?;
    Ok(String::from_utf8_lossy(&name[..length])
        .trim_end_matches('\0')
        .to_owned())
}

fn refused(socket: &Descriptor<'_>, name: &str, findings: &mut Findings) {
    let advice = match name {
        "MPTCP" | "MPTCPv6" => "use plain TCP (programs in Go: GODEBUG=multipathtcp=0)",
        "AF_VSOCK" => "close it before, or use TCP",
        "ALG" => "compute in the program instead of the kernel",
        "SMC" | "SMC6" => "use plain TCP",
        _ => "close it, or use TCP, UDP or Unix sockets",
    };
    let detail = format!(
        "{} is a socket of type {name}, which cannot be checkpointed: {advice}",
        socket.shown()
    );
    findings.fatal(Kind::Socket, socket.process.pid, detail);
}

fn connections_of(scene: &Scene<'_>, pid: u32, all: &[Connection], findings: &mut Findings) {
    let mut shown: Vec<String> = all
        .iter()
        .take(SHOWN_MAX)
        .map(|connection| format!("{} with {}", connection.local, connection.remote))
        .collect();
    if all.len() > SHOWN_MAX {
        shown.push(format!("{} more", all.len() - SHOWN_MAX));
    }
    let (number, verb) = if all.len() == 1 {
        ("1 established TCP connection".to_owned(), "is")
    } else {
        (format!("{} established TCP connections", all.len()), "are")
    };
    let process = scene.tree.iter().find(|process| process.pid == pid);
    let of = process.map_or_else(|| format!("pid {pid}"), Process::shown);
    let effect = match scene.policy.tcp {
        Tcp::Close => format!(
            "{verb} closed by a restore (policy `close`): the program sees an error and its peers \
             see a reset"
        ),
        Tcp::Keep => format!(
            "{verb} kept (policy `keep`): restore on a machine that has the same address, before \
             the peers give up"
        ),
    };
    let detail = format!("{number} of {of} ({}) {effect}", shown.join(", "));
    findings.note(Kind::TcpConnection, pid, detail);
}

fn unix(
    socket: &Descriptor<'_>,
    inodes: &HashSet<u64>,
    network: &Network,
    findings: &mut Findings,
) {
    // The kernel's answer has 32 bits of the inode.
    let known = u32::try_from(socket.file.inode)
        .ok()
        .and_then(|inode| network.unix.get(&inode));
    let Some(known) = known.filter(|known| known.peer != 0) else {
        return;
    };
    if inodes.contains(&u64::from(known.peer)) {
        return;
    }
    let peer = network.unix.get(&known.peer);
    let name = peer
        .map(|peer| peer.name.as_str())
        .filter(|name| !name.is_empty());
    let to = name.map_or_else(
        || "a nameless socket".to_owned(),
        |name| format!("{name:?}"),
    );
    let (shown, pid) = (socket.shown(), socket.process.pid);
    if known.datagram && name.is_some() {
        let detail = format!(
            "{shown} sends to the Unix socket {to} of somebody outside of the workload: the same \
             socket must exist where it is restored"
        );
        findings.note(Kind::UnixSocket, pid, detail);
    } else {
        let detail = format!(
            "{shown} is connected to {to} of somebody outside of the workload, which cannot be \
             checkpointed: close the connection, or run both sides in the workload"
        );
        findings.fatal(Kind::UnixSocket, pid, detail);
    }
}

/// The tables of one network namespace.
#[derive(Debug, Default)]
struct Network {
    tcp: HashMap<u64, Connection>,
    unix: HashMap<u32, UnixSocket>,
}

/// The tables of the network namespaces that were asked for, by the namespace's inode.
#[derive(Debug, Default)]
struct Networks {
    known: HashMap<u64, Network>,
}

impl Networks {
    fn of(&mut self, process: &Process, findings: &mut Findings) -> &Network {
        let namespace = process.dir.stat("ns/net").map_or(0, |stat| stat.stx_ino);
        self.known.entry(namespace).or_insert_with(|| {
            let mut failed = |what: &str, error: &io::Error| {
                let detail = format!(
                    "the {what} of {} could not be listed: {error}",
                    process.shown()
                );
                findings.note(Kind::Unknown, process.pid, detail);
            };
            let tcp = tcp::connections(process).unwrap_or_else(|error| {
                failed("TCP connections", &error);
                HashMap::new()
            });
            let unix = unix_sockets(process, namespace).unwrap_or_else(|error| {
                failed("Unix sockets", &error);
                HashMap::new()
            });
            Network { tcp, unix }
        })
    }
}

fn unix_sockets(process: &Process, namespace: u64) -> io::Result<HashMap<u32, UnixSocket>> {
    let own = fs::stat("/proc/thread-self/ns/net")?.st_ino;
    let entered = match namespace {
        same if same == own => None,
        _ => Some(process.dir.open_below("ns/net", OFlags::RDONLY)?),
    };
    unix_diag::sockets(entered)
}
