//! How long a workload stands still, by the size of its memory.
//!
//! All of its memory is in the store already. Then a given number of bytes is written in random pages,
//! and the evacuation is called at once, with a daemon that sends nothing more before the freeze: all
//! of these bytes are read while the workload stands still.

use std::{process::ExitCode, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Bench, Setting,
    node::{Node, Orders},
    report::{Check, Outcome, Plot, Table, median, ratio, seconds, size},
};
use crate::workload::Shape;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Seconds between looks at what was written: seldom, so that none falls between the last writes and
/// the freeze.
const LOOK_EVERY_S: u32 = 3;

/// How often it is tried again when a look has.
const TRIES: u32 = 5;

/// As good as nothing. What the daemon shows has an estimate in it, of writes since its last look.
const UNSAVED_BYTES: u64 = 16 << 20;

/// Acceptance: longest freeze.
const FREEZE_MS: f64 = 150.0;

/// Acceptance: the largest memory's freeze to the smallest one's.
const RATIO: f64 = 1.3;

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Freeze {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// Sizes of memory, instead of --size
    #[arg(long, value_delimiter = ',', default_value = "64MiB,256MiB")]
    sizes: Vec<ByteSize>,
    /// What is written last
    #[arg(long, default_value = "16MiB")]
    dirty: ByteSize,
    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// What is done to the memory between its copy and the freeze.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// To random pages.
    pub bytes: u64,
    /// Whether what is written is what was there.
    pub same: bool,
}

/// Copies a workload's memory, has it write, and evacuates it before the daemon looks again. Returns
/// the client's JSON, and the size after compression of as many pages written in the same way.
pub(super) async fn evacuate_after(
    bench: &Bench,
    name: &str,
    shape: &Shape,
    last: Last,
) -> anyhow::Result<(Value, u64)> {
    for _ in 0..TRIES {
        let (result, compressed) = evacuate_once(bench, name, shape, last).await?;
        let read = result["read_bytes"].as_u64();
        if read.is_some_and(|read| read >= last.bytes) {
            return Ok((result, compressed));
        }
    }
    anyhow::bail!("the daemon always looks just before the freeze")
}

async fn evacuate_once(
    bench: &Bench,
    name: &str,
    shape: &Shape,
    last: Last,
) -> anyhow::Result<(Value, u64)> {
    let orders = Orders {
        cpu_share: 1.0,
        look_every_s: Some(LOOK_EVERY_S),
        hurry: false,
        ..Orders::default()
    };
    let node = Node::start(bench, name, orders).await?;
    let mut workload = node.run(name, shape)?;
    workload.wait_for("ready", LIMIT).await?;
    let write = if last.same {
        format!("rewrite {}", last.bytes)
    } else {
        format!("dirty {}", last.bytes)
    };
    let answer = if last.same { "rewritten" } else { "dirtied" };
    let measure = format!("measure {}", last.bytes);
    let [compressed, _] = workload.ask(&measure, "measured", LIMIT).await?;
    // What was seen before is not the state that is meant.
    tokio::time::sleep(Duration::from_secs(u64::from(LOOK_EVERY_S) * 2)).await;
    node.wait_until_saved(name, UNSAVED_BYTES, LIMIT).await?;
    workload.ask(&write, answer, LIMIT).await?;
    let result = node.evacuate(name).await?;
    workload.end(LIMIT).await?;
    node.stop().await?;
    bench.empty_store()?;
    Ok((result, compressed))
}

impl Freeze {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let mut all: Vec<(ByteSize, Vec<Value>)> =
            self.sizes.iter().map(|size| (*size, Vec::new())).collect();
        for round in 0..self.rounds {
            for (size, results) in &mut all {
                let shape = Shape {
                    size: *size,
                    ..self.shape.clone()
                };
                let last = Last {
                    bytes: self.dirty.as_u64(),
                    same: false,
                };
                let name = format!("freeze-{}-{}-{round}", std::process::id(), size.as_u64());
                let (result, _) = evacuate_after(&bench, &name, &shape, last).await?;
                results.push(result);
            }
        }
        bench.print(self.outcome(&all))?;
        Ok(ExitCode::SUCCESS)
    }

    fn outcome(&self, all: &[(ByteSize, Vec<Value>)]) -> Outcome {
        let middle = |results: &[Value], name: &str| {
            median(
                results
                    .iter()
                    .filter_map(|one| one[name].as_u64())
                    .collect(),
            )
        };
        let mut table = Table::new(&["freeze", "frozen until all is read", "read", "total"]);
        let (mut sizes, mut bars) = (Vec::new(), Vec::new());
        for (bytes, results) in all {
            let freeze_ms = middle(results, "freeze_ms");
            let label = size(bytes.as_u64());
            table.row([
                label.clone(),
                format!("{freeze_ms} ms"),
                size(middle(results, "read_bytes")),
                seconds(middle(results, "total_ms")),
            ]);
            #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
            bars.push((label, freeze_ms as f64));
            sizes.push(json!({
                "memory_bytes": bytes.as_u64(),
                "freeze_ms": freeze_ms,
                "read_bytes": middle(results, "read_bytes"),
                "total_ms": middle(results, "total_ms"),
                "rounds": results,
            }));
        }
        let of = |index: usize| sizes.get(index).and_then(|one| one["freeze_ms"].as_u64());
        let growth = of(sizes.len().saturating_sub(1))
            .zip(of(0))
            .map_or(1.0, |(last, first)| ratio(last, first));
        let reads = sizes.iter().filter_map(|one| one["read_bytes"].as_u64());
        let read = ratio(reads.max().unwrap_or(0), self.dirty.as_u64());
        let longest = bars.iter().map(|(_, ms)| *ms).fold(0.0, f64::max);
        Outcome {
            scenario: "freeze",
            table,
            figures: json!({
                "dirty_bytes": self.dirty.as_u64(),
                "shared_percent": self.shape.shared,
                "entropy": self.shape.entropy,
                "sizes": sizes,
                "ratio": growth,
            }),
            checks: vec![
                Check::at_most(
                    "most that was read while frozen to what was written",
                    read,
                    1.25,
                ),
                Check::at_most(
                    "freeze of the largest memory to the smallest's",
                    growth,
                    RATIO,
                ),
                Check::at_most("longest freeze in ms", longest, FREEZE_MS),
            ],
            plots: vec![Plot::new(
                format!(
                    "Freeze with {} written, {} % shared",
                    size(self.dirty.as_u64()),
                    self.shape.shared
                ),
                "ms",
                bars,
            )],
        }
    }
}
