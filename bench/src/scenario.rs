//! Measurements with real daemons, and of what a user would do without them.
//!
//! Each scenario prints a table for people on standard error and one line of JSON on standard output,
//! and fails when what it asserts does not hold.

mod daemon_memory;
mod lifeboat;
mod moves;
mod node;
mod program;
mod report;
mod stock;
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
    /// Memory of the daemons while a workload leaves one and comes to another
    DaemonMemory(daemon_memory::DaemonMemory),
    /// From the call until the workload is safe: Lifeboat, and criu dump + zstd + upload
    Evacuate(moves::Moves),
    /// From the call until the workload runs, and until all its memory was used: Lifeboat, and
    /// download + zstd + criu restore
    Restore(moves::Moves),
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
        Scenario::DaemonMemory(scenario) => scenario.run().await,
        Scenario::Evacuate(moves) => moves.run(moves::Direction::Leave).await,
        Scenario::Restore(moves) => moves.run(moves::Direction::Come).await,
    }
}
