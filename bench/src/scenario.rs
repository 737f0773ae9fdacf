//! Measurements with real daemons, and of what a user would do without them.
//!
//! Each scenario prints a table for people on standard error and one line of JSON on standard output,
//! and fails when what it asserts does not hold.

mod capture;
mod cost;
mod daemon_memory;
mod delta_size;
mod evacuate;
mod freeze;
mod handover;
mod idle_cost;
mod lifeboat;
mod moves;
mod network;
mod node;
mod notice;
mod program;
mod redis_server;
mod report;
mod restore;
mod stock;
mod streamer;
mod transfer;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tempfile::TempDir;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// How fast memory is captured, beside process_vm_readv alone
    Capture(capture::Capture),
    /// What tracking and pre-copy cost redis, and a program that does nothing but write
    Cost(cost::Cost),
    /// Memory of the daemons while a workload leaves one and comes to another
    DaemonMemory(daemon_memory::DaemonMemory),
    /// What a delta costs on the wire, beside its pages compressed
    DeltaSize(delta_size::DeltaSize),
    /// What a daemon costs that keeps an idle workload evacuable
    IdleCost(idle_cost::IdleCost),
    /// How long a workload stands still, by the size of its memory
    Freeze(freeze::Freeze),
    /// From what a cloud says until the freeze begins
    Notice(notice::Notice),
    /// The whole gap for a client of redis, between two nodes with shaped links: from the last answer
    /// of the machine that goes to the first one of the machine that it goes to
    Handover(handover::Handover),
    /// From the notice until the workload is safe: Lifeboat after pre-copy, Lifeboat cold, and what a
    /// user would take instead
    Evacuate(evacuate::Evacuate),
    /// From the call on another machine until redis answers again: Lifeboat, and criu restore
    Restore(restore::Restore),
    /// The whole way there and back, seen from where it leaves: Lifeboat, and criu dump + zstd + upload
    Leave(moves::Moves),
    /// From the call until the workload runs, and until all its memory was used: Lifeboat, and
    /// download + zstd + criu restore
    Come(moves::Moves),
}

/// With what it is measured.
#[derive(Clone, Debug, Args)]
pub(crate) struct Setting {
    /// Folder of lifeboatd and the programs that go with it
    #[arg(long, default_value = "/usr/lib/lifeboat")]
    prefix: PathBuf,
    /// Folder of the CRIU bundle
    #[arg(long, default_value = "/usr/lib/lifeboat/criu")]
    criu: PathBuf,
    /// Where checkpoints go [default: a folder that is removed at the end]
    #[arg(long)]
    store: Option<String>,
    /// File to which the line of JSON is added
    #[arg(long)]
    out: Option<PathBuf>,
}

/// A setting with what it needs on disk.
#[derive(Debug)]
struct Bench {
    setting: Setting,
    store: String,
    folder: TempDir,
}

impl Bench {
    fn new(setting: &Setting) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lifeboat-bench-").tempdir();
        let folder = folder.context("make a folder")?;
        let store = match &setting.store {
            Some(url) => url.clone(),
            None => format!("file://{}/store", folder.path().display()),
        };
        Ok(Self {
            setting: setting.clone(),
            store,
            folder,
        })
    }

    fn print(&self, outcome: report::Outcome) -> anyhow::Result<()> {
        outcome.print(&self.store, self.setting.out.as_deref())
    }

    /// Gives back the space of a store that is this scenario's own.
    fn empty_store(&self) -> anyhow::Result<()> {
        let folder = self.path().join("store");
        if self.setting.store.is_none() && folder.exists() {
            std::fs::remove_dir_all(folder).context("empty the store")?;
        }
        Ok(())
    }

    fn program(&self, name: &str) -> PathBuf {
        self.setting.prefix.join(name)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Runs a scenario.
pub(crate) async fn run(scenario: Scenario) -> anyhow::Result<ExitCode> {
    match scenario {
        Scenario::Cost(scenario) => scenario.run().await,
        Scenario::Restore(scenario) => scenario.run().await,
        Scenario::Capture(scenario) => scenario.run().await,
        Scenario::DeltaSize(scenario) => scenario.run().await,
        Scenario::IdleCost(scenario) => scenario.run().await,
        Scenario::DaemonMemory(scenario) => scenario.run().await,
        Scenario::Freeze(scenario) => scenario.run().await,
        Scenario::Evacuate(scenario) => scenario.run().await,
        Scenario::Notice(scenario) => scenario.run().await,
        Scenario::Handover(scenario) => scenario.run().await,
        Scenario::Leave(moves) => moves.run(moves::Direction::Leave).await,
        Scenario::Come(moves) => moves.run(moves::Direction::Come).await,
    }
}
