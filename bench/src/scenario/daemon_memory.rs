//! The daemon's memory is bounded, whatever the size of the workload.

use std::{process::ExitCode, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{
    Bench, Setting,
    node::{Node, Orders},
    report::{Outcome, Table, seconds, size},
};
use crate::workload::Shape;

/// How long filling, loading or verifying the workload's memory may take.
const MEMORY_LIMIT: Duration = Duration::from_secs(1800);

/// Name of the workload.
const NAME: &str = "daemon-memory";

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct DaemonMemory {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// Most memory that a daemon may ever have
    #[arg(long, default_value = "256MiB")]
    limit: ByteSize,
}

#[derive(Debug, Serialize)]
struct Figures {
    scenario: &'static str,
    store: String,
    workload_bytes: u64,
    limit_bytes: u64,
    idle_bytes: u64,
    evacuate_peak_bytes: u64,
    restore_peak_bytes: u64,
    restored_and_verified: bool,
    ok: bool,
    evacuation: Value,
}

impl DaemonMemory {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        // All of it is read at once, by a daemon that has copied nothing before.
        let orders = Orders {
            precopy: false,
            ..Orders::default()
        };
        let (a, b) = (
            Node::start(&bench, "a", orders).await?,
            Node::start(&bench, "b", Orders::default()).await?,
        );
        let idle_bytes = a.peak_memory()?;
        let mut workload = a.run(NAME, &self.shape)?;
        workload.wait_for("ready", MEMORY_LIMIT).await?;
        let evacuation = a.evacuate(NAME).await?;
        let evacuate_peak_bytes = a.peak_memory()?;
        workload.end(MEMORY_LIMIT).await?;
        // Nothing is worth a figure that was measured on a wrong restore.
        let mut workload = b.run(NAME, &self.shape)?;
        b.wait_for_state(NAME, "running", MEMORY_LIMIT).await?;
        workload.tell("verify").await?;
        workload.wait_for("verified", MEMORY_LIMIT).await?;
        let restore_peak_bytes = b.peak_memory()?;
        workload.terminate().await?;
        a.stop().await?;
        b.stop().await?;
        let limit_bytes = self.limit.as_u64();
        let figures = Figures {
            scenario: NAME,
            store: bench.store.clone(),
            workload_bytes: self.shape.size.as_u64(),
            limit_bytes,
            idle_bytes,
            evacuate_peak_bytes,
            restore_peak_bytes,
            restored_and_verified: true,
            ok: evacuate_peak_bytes < limit_bytes && restore_peak_bytes < limit_bytes,
            evacuation,
        };
        figures.print(&bench)?;
        Ok(if figures.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl Figures {
    fn print(&self, bench: &Bench) -> anyhow::Result<()> {
        let mut table = Table::new(&["memory of the daemon", "peak", "limit", "time"]);
        let time = self.evacuation["total_ms"].as_u64().unwrap_or(0);
        let limit = size(self.limit_bytes);
        let workload = size(self.workload_bytes);
        table.row([
            "idle".to_owned(),
            size(self.idle_bytes),
            limit.clone(),
            String::new(),
        ]);
        table.row([
            format!("evacuates {workload}"),
            size(self.evacuate_peak_bytes),
            limit.clone(),
            seconds(time),
        ]);
        let restores = format!("restores {workload}");
        table.row([
            restores,
            size(self.restore_peak_bytes),
            limit,
            String::new(),
        ]);
        bench.print(Outcome {
            scenario: NAME,
            table,
            figures: serde_json::to_value(self)?,
            checks: Vec::new(),
            plots: Vec::new(),
        })
    }
}
