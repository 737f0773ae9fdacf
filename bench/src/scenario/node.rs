//! A node: a daemon with its own state and socket.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{Bench, program::Program};
use crate::workload::Shape;

/// How long a daemon may take to answer after its start, and to drain at its end.
const DAEMON_LIMIT: Duration = Duration::from_secs(40);

/// How long an evacuation may take.
const SAVE_LIMIT: Duration = Duration::from_secs(1800);

/// Time between looks at something that tells nobody when it is there.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A running daemon.
#[derive(Debug)]
pub(super) struct Node {
    daemon: Child,
    client: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    said: PathBuf,
}

impl Node {
    pub(super) async fn start(bench: &Bench, name: &str) -> anyhow::Result<Self> {
        let folder = bench.path().join(name);
        fs::create_dir_all(&folder).context("make the node's folder")?;
        let (socket, log) = (folder.join("lb.sock"), folder.join("daemon.log"));
        let said = folder.join("holds.log");
        let daemon = Command::new(bench.program("lifeboatd"))
            .args(["--node", name, "--store", &bench.store, "--log-json"])
            .arg("--socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--criu-bundle")
            .arg(&bench.setting.criu)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).context("make the daemon's log")?)
            .kill_on_drop(true)
            .spawn()
            .context("start lifeboatd")?;
        let mut node = Self {
            daemon,
            client: bench.program("lifeboat"),
            socket,
            log,
            said,
        };
        let limit = Instant::now() + DAEMON_LIMIT;
        while !node.call(&["status"]).await?.0 {
            if Instant::now() > limit || node.daemon.try_wait()?.is_some() {
                bail!("the daemon does not answer: {}", node.tail());
            }
            tokio::time::sleep(LOOK_INTERVAL * 10).await;
        }
        Ok(node)
    }

    fn pid(&self) -> anyhow::Result<Pid> {
        let pid = self.daemon.id().and_then(|id| i32::try_from(id).ok());
        pid.and_then(Pid::from_raw).context("the daemon has ended")
    }

    /// The most memory that the daemon ever had, in bytes (`VmHWM` of proc(5)).
    pub(super) fn peak_memory(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid()?.as_raw_nonzero());
        let status = fs::read_to_string(path).context("look at the daemon")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.context("the kernel tells no VmHWM")? * 1024)
    }

    /// The last lines of its log.
    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        format!(
            "{}\n{said}",
            lines[lines.len().saturating_sub(5)..].join("\n")
        )
    }

    async fn call(&self, arguments: &[&str]) -> anyhow::Result<(bool, Vec<u8>)> {
        let output = Command::new(&self.client)
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .context("run lifeboat")?;
        Ok((output.status.success(), output.stdout))
    }

    /// `lifeboat run` of a workload of this shape.
    pub(super) fn run(&self, name: &str, shape: &Shape) -> anyhow::Result<Program> {
        let mut command = Command::new(&self.client);
        command.arg("--socket").arg(&self.socket);
        command.args(["run", "--require-daemon", "--workload", name, "--"]);
        shape.command_line(&mut command)?;
        // What a hold says to people; it would stand between the lines of the table.
        let said = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.said);
        command.stderr(said.context("make a file for what the hold says")?);
        Program::start(&mut command)
    }

    /// Evacuates a workload; returns the client's JSON.
    pub(super) async fn evacuate(&self, name: &str) -> anyhow::Result<Value> {
        let arguments = ["--output", "json", "evacuate", name];
        let (_, output) = tokio::time::timeout(SAVE_LIMIT, self.call(&arguments)).await??;
        let result: Value = serde_json::from_slice(&output).context("read the outcome")?;
        if result["outcome"] != "evacuated" {
            bail!("{name} was not evacuated: {result}\n{}", self.tail());
        }
        Ok(result)
    }

    /// Waits until the state of a workload is `state`.
    pub(super) async fn wait_for_state(
        &self,
        name: &str,
        state: &str,
        limit: Duration,
    ) -> anyhow::Result<Instant> {
        let end = Instant::now() + limit;
        loop {
            let (_, output) = self.call(&["--output", "json", "list"]).await?;
            let list: Value = serde_json::from_slice(&output).unwrap_or_default();
            let found = list
                .as_array()
                .into_iter()
                .flatten()
                .find(|one| one["name"] == name);
            if found.is_some_and(|one| one["state"] == state) {
                return Ok(Instant::now());
            }
            if Instant::now() > end {
                bail!("{name} is not {state}: {list}\n{}", self.tail());
            }
            tokio::time::sleep(LOOK_INTERVAL * 10).await;
        }
    }

    /// Drains and ends.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(self.pid()?, Signal::TERM).context("stop the daemon")?;
        let ended = tokio::time::timeout(DAEMON_LIMIT, self.daemon.wait()).await;
        ended
            .context("the daemon does not stop")?
            .context("wait for the daemon")
            .map(drop)
    }
}
