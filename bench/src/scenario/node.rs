//! A node: a daemon with its own state and socket.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
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

/// What a daemon is told, besides where things are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    /// Whether memory is copied ahead of time.
    pub precopy: bool,
    /// Share of a processor for it.
    pub cpu_share: f64,
    /// Seconds between looks at what was written, if that is not to follow from the cost.
    pub look_every_s: Option<u32>,
    /// Whether what is pending may be sent before the freeze.
    pub hurry: bool,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            precopy: true,
            cpu_share: 0.5,
            look_every_s: None,
            hurry: true,
        }
    }
}

impl Orders {
    /// As a configuration file.
    fn toml(self) -> String {
        let Self {
            precopy, cpu_share, ..
        } = self;
        let mut text = format!("[precopy]\nenabled = {precopy}\ncpu_share = {cpu_share:?}\n");
        if let Some(seconds) = self.look_every_s {
            text.push_str(&format!(
                "shortest = \"{seconds}s\"\nlongest = \"{seconds}s\"\n"
            ));
        }
        if !self.hurry {
            text.push_str("[save]\nhurry = false\n");
        }
        text
    }
}

/// Where a daemon runs and what it is told there, besides its orders.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Its store, if that is not the scenario's.
    pub store: Option<String>,
    /// Lines before the other ones of its configuration.
    pub config: String,
    /// Variables.
    pub environment: Vec<(&'static str, String)>,
    /// The network namespace that it and its workloads are in.
    pub network: Option<String>,
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Node {
    daemon: Child,
    client: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    said: PathBuf,
    state: PathBuf,
    network: Option<String>,
}

/// A command for `program` in a network namespace.
fn inside(network: Option<&str>, program: PathBuf) -> Command {
    match network {
        None => Command::new(program),
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).arg(program);
            command
        }
    }
}

impl Node {
    pub(super) async fn start(bench: &Bench, name: &str, orders: Orders) -> anyhow::Result<Self> {
        Self::start_at(bench, name, orders, Place::default()).await
    }

    pub(super) async fn start_at(
        bench: &Bench,
        name: &str,
        orders: Orders,
        place: Place,
    ) -> anyhow::Result<Self> {
        let folder = bench.path().join(name);
        fs::create_dir_all(&folder).context("make the node's folder")?;
        let config = folder.join("lifeboatd.toml");
        let toml = format!("{}\n{}", place.config, orders.toml());
        fs::write(&config, toml).context("write the daemon's configuration")?;
        let (socket, log) = (folder.join("lb.sock"), folder.join("daemon.log"));
        let (said, state) = (folder.join("holds.log"), folder.join("state"));
        let store = place.store.as_ref().unwrap_or(&bench.store);
        let daemon = inside(place.network.as_deref(), bench.program("lifeboatd"))
            .args(["--node", name, "--store", store, "--log-json"])
            .envs(place.environment)
            .arg("--config")
            .arg(&config)
            .arg("--socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(&state)
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
            state,
            network: place.network,
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

    pub(super) fn pid(&self) -> anyhow::Result<Pid> {
        let pid = self.daemon.id().and_then(|id| i32::try_from(id).ok());
        pid.and_then(Pid::from_raw).context("the daemon has ended")
    }

    /// The most memory that the daemon ever had, in bytes.
    pub(super) fn peak_memory(&self) -> anyhow::Result<u64> {
        self.memory_figure("VmHWM:")
    }

    /// The memory that the daemon has, in bytes.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        self.memory_figure("VmRSS:")
    }

    /// A figure of `/proc/PID/status` (proc(5)).
    fn memory_figure(&self, name: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid()?.as_raw_nonzero());
        let status = fs::read_to_string(path).context("look at the daemon")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("the kernel tells no {name}"))? * 1024)
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

    /// Everything that it has logged.
    pub(super) fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the holds under it have said to people.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Where its journal and its notices are.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// Calls the client's program; whether it succeeded, and what it printed.
    pub(super) async fn call(&self, arguments: &[&str]) -> anyhow::Result<(bool, Vec<u8>)> {
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
        let mut program = Command::new("");
        shape.command_line(&mut program)?;
        let arguments: Vec<_> = program.as_std().get_args().map(OsStr::to_owned).collect();
        self.run_program(name, &arguments)
    }

    /// `lifeboat run` of a command line.
    pub(super) fn run_program<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: &[A],
    ) -> anyhow::Result<Program> {
        let mut command = inside(self.network.as_deref(), self.client.clone());
        command.arg("--socket").arg(&self.socket);
        command.args(["run", "--require-daemon", "--workload", name, "--"]);
        command.args(arguments);
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
            let found = self.workload(name).await?;
            if found["state"] == state {
                return Ok(Instant::now());
            }
            if Instant::now() > end {
                bail!("{name} is not {state}: {found}\n{}", self.tail());
            }
            tokio::time::sleep(LOOK_INTERVAL * 10).await;
        }
    }

    /// A workload as the client lists it; `null` if it does not.
    pub(super) async fn workload(&self, name: &str) -> anyhow::Result<Value> {
        let (_, output) = self.call(&["--output", "json", "list"]).await?;
        let list: Value = serde_json::from_slice(&output).unwrap_or_default();
        let mut all = list.as_array().into_iter().flatten();
        Ok(all
            .find(|one| one["name"] == name)
            .cloned()
            .unwrap_or_default())
    }

    /// Waits until no more than `bytes` of a workload are not in the store.
    pub(super) async fn wait_until_saved(
        &self,
        name: &str,
        bytes: u64,
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let end = Instant::now() + limit;
        loop {
            let found = self.workload(name).await?;
            let is_running = found["state"] == "running";
            if is_running
                && found["unsaved_bytes"]
                    .as_u64()
                    .is_some_and(|left| left <= bytes)
            {
                return Ok(found);
            }
            if Instant::now() > end {
                bail!("{name} is not saved: {found}\n{}", self.tail());
            }
            tokio::time::sleep(LOOK_INTERVAL * 20).await;
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
