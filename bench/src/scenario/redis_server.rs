//! A Redis server as a workload.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

use super::{node::Node, program::Program};
use crate::redis::first_answer;

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A free address on this machine.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// The command line of a server that keeps everything in memory.
pub(super) fn command_line(address: SocketAddr, folder: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["redis-server", "--save", "", "--appendonly", "no"]
        .map(OsString::from)
        .into();
    words.extend(["--bind", &address.ip().to_string(), "--port"].map(OsString::from));
    words.push(address.port().to_string().into());
    words.push("--dir".into());
    words.push(folder.into());
    words
}

/// Starts one under a daemon, and waits until it answers.
pub(super) async fn start(
    node: &Node,
    name: &str,
    address: SocketAddr,
    folder: &Path,
) -> anyhow::Result<Program> {
    let program = node.run_program(name, &command_line(address, folder))?;
    first_answer(address, None, START_LIMIT).await?;
    Ok(program)
}
