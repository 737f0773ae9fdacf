//! TCP connections by the inode of their socket, from /proc/PID/net/tcp and tcp6.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::process::Process;

/// Most bytes of a table that are read: about 400 000 connections.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// States of include/net/tcp_states.h that are not a connection: CLOSE and LISTEN.
const NO_CONNECTION: [&str; 2] = ["07", "0A"];

/// The connections in the network namespace of a process.
pub(crate) fn connections(process: &Process) -> io::Result<HashMap<u64, Connection>> {
    let mut all = HashMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        match process.dir.read(table, TABLE_BYTES_MAX) {
            Ok((bytes, _)) => all.extend(String::from_utf8_lossy(&bytes).lines().filter_map(parse)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn parse(line: &str) -> Option<(u64, Connection)> {
    let fields: Vec<&str> = line.split_whitespace().take(10).collect();
    let [_, local, remote, state, _, _, _, _, _, inode] = fields[..] else {
        return None;
    };
    if NO_CONNECTION.contains(&state) {
        return None;
    }
    let connection = Connection {
        local: address(local)?,
        remote: address(remote)?,
    };
    Some((inode.parse().ok()?, connection))
}

/// `ADDRESS:PORT` in hexadecimal: the address as 32-bit words in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    if !address.len().is_multiple_of(8) {
        return None;
    }
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..]).ok().map(Ipv4Addr::from)?),
        16 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?);
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        // As on a little-endian machine.
        if cfg!(target_endian = "little") {
            assert_eq!(
                address("0100007F:1F90"),
                Some("127.0.0.1:8080".parse().unwrap())
            );
            let six = "B80D01200000000067452301EFCDAB89:0050";
            let expected = "[2001:db8::123:4567:89ab:cdef]:80".parse().unwrap();
            assert_eq!(address(six), Some(expected));
            let mapped = address("0000000000000000FFFF00000100007F:0001");
            assert_eq!(mapped, Some("127.0.0.1:1".parse().unwrap()));
        }
        for bad in ["", ":", "0100007F", "01:1", "0100007F:12345", "010000ü:1"] {
            assert_eq!(address(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn listening_and_closed_sockets_are_no_connections() {
        let line = |state| {
            format!("   0: 0100007F:1F90 0100007F:0001 {state} 0:0 00:0 0 0 0 77 1 x 100 0 0 10 0")
        };
        assert_eq!(parse(&line("0A")), None);
        assert_eq!(parse(&line("07")), None);
        assert_eq!(parse(&line("01")).unwrap().0, 77);
        assert_eq!(
            parse("  sl  local_address rem_address   st tx_queue rx_queue tr"),
            None
        );
    }
}
