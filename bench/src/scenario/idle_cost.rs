//! What a daemon costs that keeps an idle workload evacuable: memory and processor time.

use std::{fs, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use rustix::process::Pid;
use serde_json::json;

use super::{
    Bench, Setting,
    node::{Node, Orders},
    report::{Check, Outcome, Plot, Table, ratio, size},
};
use crate::workload::Shape;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// As good as nothing.
const UNSAVED_BYTES: u64 = 16 << 20;

/// Acceptance: percent of a processor.
const PROCESSOR_PERCENT: f64 = 2.0;

/// Acceptance: memory of the daemon, whatever it tracks.
const FIXED_BYTES: u64 = 128 << 20;

/// Acceptance: bytes of tracked memory for each byte more.
const TRACKED_PER_BYTE: u64 = 1000;

/// Milliseconds of a tick in `/proc` (`USER_HZ`, which is 100 on x86-64).
const TICK_MS: u64 = 10;

/// Places of `utime` and `stime` among what follows the name in `/proc/PID/stat` (proc(5)).
const TIMES: [usize; 2] = [11, 12];

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct IdleCost {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// Seconds that are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
}

impl IdleCost {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let node = Node::start(&bench, "idle", Orders::default()).await?;
        let name = format!("idle-{}", std::process::id());
        let mut workload = node.run(&name, &self.shape)?;
        workload.wait_for("ready", LIMIT).await?;
        let saved = node.wait_until_saved(&name, UNSAVED_BYTES, LIMIT).await?;
        let pid = node.pid()?;
        let before = processor_time(pid)?;
        tokio::time::sleep(Duration::from_secs(self.seconds.into())).await;
        let used = processor_time(pid)?.saturating_sub(before);
        let (now, peak) = (node.memory()?, node.peak_memory()?);
        workload.terminate().await?;
        node.stop().await?;
        bench.empty_store()?;
        let tracked = saved["memory_bytes"].as_u64().unwrap_or(0);
        let percent = used.as_secs_f64() * 100.0 / f64::from(self.seconds);
        let budget = FIXED_BYTES + tracked / TRACKED_PER_BYTE;
        let mut table = Table::new(&["idle", "figure", "budget"]);
        table.row([
            "processor".to_owned(),
            format!("{percent:.2} %"),
            format!("{PROCESSOR_PERCENT} %"),
        ]);
        table.row(["memory now".to_owned(), size(now), size(budget)]);
        table.row(["memory at most".to_owned(), size(peak), String::new()]);
        let bars = [
            ("now".to_owned(), ratio(now, 1 << 20)),
            ("at most".to_owned(), ratio(peak, 1 << 20)),
            ("budget".to_owned(), ratio(budget, 1 << 20)),
        ];
        bench.print(Outcome {
            scenario: "idle-cost",
            table,
            figures: json!({
                "tracked_bytes": tracked,
                "seconds": self.seconds,
                "processor_percent": percent,
                "memory_bytes": now,
                "memory_peak_bytes": peak,
                "memory_budget_bytes": budget,
            }),
            checks: vec![
                Check::at_most("percent of a processor", percent, PROCESSOR_PERCENT),
                Check::at_most(
                    "memory of the daemon to its budget",
                    ratio(now, budget),
                    1.0,
                ),
            ],
            plots: vec![Plot::new(
                format!("Memory of the daemon with {} tracked", size(tracked)),
                "MiB",
                bars,
            )],
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Processor time of a process until now.
fn processor_time(pid: Pid) -> anyhow::Result<Duration> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = fs::read_to_string(path).context("look at the daemon")?;
    // The name may have spaces and parentheses in it.
    let (_, rest) = stat
        .rsplit_once(") ")
        .context("the kernel tells no times")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let ticks = TIMES.map(|at| words.get(at).and_then(|word| word.parse::<u64>().ok()));
    let ticks = ticks[0]
        .zip(ticks[1])
        .context("the kernel tells no times")?;
    Ok(Duration::from_millis((ticks.0 + ticks.1) * TICK_MS))
}
