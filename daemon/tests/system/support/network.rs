//! Nodes on networks of their own: a network namespace each, with a link to this machine that is shaped
//! in both directions (tc-tbf(8)).

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

/// Longest time that a packet waits for its turn, for `tc`.
const QUEUE: &str = "50ms";

/// Part of a second's bytes that may be sent at once: a tick of the kernel's, and some more.
const BURST_PER_SECOND: u64 = 480;

/// Least burst, in bytes: some packets before segmentation.
const BURST_MIN: u64 = 128 << 10;

/// A network, which goes with this.
#[derive(Debug)]
pub(crate) struct Link {
    namespace: String,
    here: Ipv4Addr,
}

impl Link {
    /// A network with a link of so many megabits per second.
    pub(crate) fn new(megabits: u64) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 60;
        let process = std::process::id();
        let namespace = format!("lbt{process}-{number}");
        let net = u8::try_from(process % 250).unwrap();
        let [here, there] = [1, 2].map(|host| Ipv4Addr::new(10, 78, net, number * 4 + host));
        let link = Self {
            namespace: namespace.clone(),
            here,
        };
        let [outside, inside] = ["h", "n"].map(|end| format!("lt{process}{end}{number}"));
        let (here, there) = (format!("{here}/30"), format!("{there}/30"));
        let rate = format!("{megabits}mbit");
        let burst = (megabits * 125_000 / BURST_PER_SECOND).max(BURST_MIN);
        let shape = format!("root tbf rate {rate} burst {burst} latency {QUEUE}");
        for line in [
            format!("ip netns add {namespace}"),
            format!("ip link add {outside} type veth peer name {inside} netns {namespace}"),
            format!("ip addr add {here} dev {outside}"),
            format!("ip link set {outside} up"),
            format!("ip -n {namespace} addr add {there} dev {inside}"),
            format!("ip -n {namespace} link set {inside} up"),
            // CRIU needs the loopback interface.
            format!("ip -n {namespace} link set lo up"),
            format!("tc qdisc add dev {outside} {shape}"),
            format!("tc -n {namespace} qdisc add dev {inside} {shape}"),
        ] {
            assert_eq!(run(&line), Ok(()), "{line}; these tests run as root");
        }
        link
    }

    /// Its name, as ip-netns(8) has it.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// This machine's address on it.
    pub(crate) const fn here(&self) -> Ipv4Addr {
        self.here
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The interfaces go with it.
        drop(run(&format!("ip netns del {}", self.namespace)));
    }
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let program = words.next().expect("a line has a word");
    let mut command = Command::new(program);
    let output = command.args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
