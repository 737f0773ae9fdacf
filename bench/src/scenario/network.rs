//! Nodes on networks of their own: a network namespace each, whose link to this machine is shaped in
//! both directions (tc-tbf(8)), and doors to servers of this machine on this machine's end of it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context as _, bail};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Longest time that a packet waits for its turn, for `tc`.
const QUEUE: &str = "50ms";

/// Part of a second's bytes that may be sent at once: a tick of the kernel's, and some more.
const BURST_PER_SECOND: u64 = 480;

/// Least burst, in bytes: some packets before segmentation.
const BURST_MIN: u64 = 128 << 10;

/// Most links of a process at the same time.
const LINKS_MAX: u8 = 60;

/// A node's network.
#[derive(Debug)]
pub(super) struct Link {
    namespace: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
    doors: Vec<JoinHandle<()>>,
}

impl Link {
    /// A network with a link of `megabits` per second.
    pub(super) fn new(megabits: u64) -> anyhow::Result<Self> {
        // The kernel takes its time to take the last one's interfaces away.
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % LINKS_MAX;
        let process = std::process::id();
        let namespace = format!("lb{process}-{number}");
        let net = u8::try_from(process % 250).unwrap_or(0);
        let [here, there] = [1, 2].map(|host| Ipv4Addr::new(10, 77, net, number * 4 + host));
        let link = Self {
            namespace: namespace.clone(),
            here,
            there,
            doors: Vec::new(),
        };
        let [outside, inside] = ["h", "n"].map(|end| format!("lb{process}{end}{number}"));
        let (here, there) = (format!("{here}/30"), format!("{there}/30"));
        run("ip", &["netns", "add", &namespace])?;
        let made = [
            "link", "add", &outside, "type", "veth", "peer", "name", &inside, "netns", &namespace,
        ];
        run("ip", &made)?;
        run("ip", &["addr", "add", &here, "dev", &outside])?;
        run("ip", &["link", "set", &outside, "up"])?;
        let in_there = |arguments: &[&str]| run("ip", &[&["-n", &namespace], arguments].concat());
        in_there(&["addr", "add", &there, "dev", &inside])?;
        in_there(&["link", "set", &inside, "up"])?;
        // CRIU needs the loopback interface.
        in_there(&["link", "set", "lo", "up"])?;
        let rate = format!("{megabits}mbit");
        let burst = (megabits * 125_000 / BURST_PER_SECOND).max(BURST_MIN);
        let burst = burst.to_string();
        let shaped = [
            "root", "tbf", "rate", &rate, "burst", &burst, "latency", QUEUE,
        ];
        run(
            "tc",
            &[&["qdisc", "add", "dev", &outside], &shaped[..]].concat(),
        )?;
        let there = ["-n", &namespace, "qdisc", "add", "dev", &inside];
        run("tc", &[&there, &shaped[..]].concat())?;
        Ok(link)
    }

    /// Its name, as ip-netns(8) has it.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// This machine's address on it.
    pub(super) fn here(&self) -> IpAddr {
        self.here.into()
    }

    /// The node's address on it.
    pub(super) fn there(&self) -> IpAddr {
        self.there.into()
    }

    /// Opens a door on this machine's end that leads to `server` (HOST:PORT).
    pub(super) async fn door(&mut self, server: &str) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((self.here, 0)).await;
        let listener = listener.context("listen on the link")?;
        let address = listener.local_addr().context("listen on the link")?;
        let server = server.to_owned();
        self.doors.push(tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    // Ends are the business of those who talk.
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        drop(server.set_nodelay(true));
                        drop(client.set_nodelay(true));
                        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        }));
        Ok(address)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for door in &self.doors {
            door.abort();
        }
        // The interfaces go with it.
        drop(run("ip", &["netns", "del", &self.namespace]));
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let done = command.args(arguments).stdin(Stdio::null()).output();
    let output = done.with_context(|| format!("run {program}, which iproute2 has"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
