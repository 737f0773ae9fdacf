//! What tracking and pre-copy cost a workload: the same work with a daemon that copies memory ahead of
//! time and with one that does not, in pairs.

use std::{process::ExitCode, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use super::{
    Bench, Setting,
    node::{Node, Orders},
    program::Program,
    redis_server,
    report::{Check, Outcome, Plot, Table, median, ratio},
};
use crate::{
    redis::{Keys, Mix, Rate},
    workload::{Locality, Shape},
};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Acceptance: part of the throughput without.
const THROUGHPUT: f64 = 0.97;

/// Acceptance: times the 99th percentile of latency without.
const LATENCY: f64 = 1.2;

/// More than any machine can write in a second, so that the microbenchmark never rests.
const AS_FAST_AS_POSSIBLE: ByteSize = ByteSize(1 << 50);

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Cost {
    #[command(flatten)]
    setting: Setting,
    /// Memory of the values in redis, and of the microbenchmark
    #[arg(long, default_value = "64MiB")]
    size: ByteSize,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Clients at once
    #[arg(long, default_value_t = 32)]
    clients: u16,
    /// Seconds of each run
    #[arg(long, default_value_t = 2)]
    seconds: u16,
    /// How many pairs of runs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// The two sides: with pre-copy, and without.
#[derive(Debug)]
struct Pair {
    with: Side,
    without: Side,
}

/// One daemon with its workloads.
#[derive(Debug)]
struct Side {
    node: Node,
    name: String,
    server: Program,
    keys: Keys,
}

impl Cost {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let pair = Pair {
            with: self.side(&bench, "with", true).await?,
            without: self.side(&bench, "without", false).await?,
        };
        let mut results = Vec::new();
        for (name, mix) in [("skewed", Mix::Skewed), ("uniform", Mix::Uniform)] {
            results.push((name, self.in_pairs(&pair, mix).await?));
        }
        let writes = self.writes(&pair).await?;
        for side in [pair.with, pair.without] {
            side.server.terminate().await?;
            side.node.stop().await?;
        }
        bench.print(self.outcome(&results, &writes))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn side(&self, bench: &Bench, which: &str, precopy: bool) -> anyhow::Result<Side> {
        let orders = Orders {
            precopy,
            ..Orders::default()
        };
        let node = Node::start(bench, which, orders).await?;
        let address = redis_server::free_address()?;
        let name = format!("cost-{which}-{}", std::process::id());
        let server = redis_server::start(&node, &name, address, bench.path()).await?;
        let keys = Keys {
            address,
            count: self.size.as_u64() / self.value_bytes.max(1) as u64,
            value_bytes: self.value_bytes,
        };
        keys.fill().await?;
        Ok(Side {
            node,
            name,
            server,
            keys,
        })
    }

    fn writer(&self) -> Shape {
        Shape {
            size: self.size,
            dirty_rate: AS_FAST_AS_POSSIBLE,
            locality: Locality::Uniform,
            touch: true,
            ..Shape::default()
        }
    }

    /// Waits until the side with pre-copy has nothing left to do.
    async fn rest(&self, pair: &Pair) -> anyhow::Result<()> {
        let enough = self.size.as_u64() / 16;
        let with = &pair.with;
        with.node
            .wait_until_saved(&with.name, enough, LIMIT)
            .await?;
        Ok(())
    }

    /// Redis, with and without in turn.
    async fn in_pairs(&self, pair: &Pair, mix: Mix) -> anyhow::Result<[Vec<Rate>; 2]> {
        let time = Duration::from_secs(self.seconds.into());
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..self.rounds {
            for turn in [usize::from(round % 2), usize::from(1 - round % 2)] {
                self.rest(pair).await?;
                let side = if turn == 0 { &pair.with } else { &pair.without };
                rates[turn].push(side.keys.load(mix, self.clients, time).await?);
            }
        }
        Ok(rates)
    }

    /// A program that does nothing but write a word to random pages: pages in a second.
    async fn writes(&self, pair: &Pair) -> anyhow::Result<[Vec<u64>; 2]> {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..self.rounds {
            for turn in [usize::from(round % 2), usize::from(1 - round % 2)] {
                self.rest(pair).await?;
                let side = if turn == 0 { &pair.with } else { &pair.without };
                let name = format!("{}-writer-{round}", side.name);
                let shape = self.writer();
                let mut writer = side.node.run(&name, &shape)?;
                writer.wait_for("ready", LIMIT).await?;
                if turn == 0 {
                    // Written without an end, it never has nothing left: its first copy is enough.
                    tokio::time::sleep(Duration::from_secs(self.seconds.into())).await;
                }
                let before = writer.ask("count", "counted", LIMIT).await?[0];
                tokio::time::sleep(Duration::from_secs(self.seconds.into())).await;
                let after = writer.ask("count", "counted", LIMIT).await?[0];
                rates[turn].push((after - before) / u64::from(self.seconds.max(1)));
                writer.terminate().await?;
            }
        }
        Ok(rates)
    }

    fn outcome(&self, redis: &[(&str, [Vec<Rate>; 2])], writes: &[Vec<u64>; 2]) -> Outcome {
        let mut table = Table::new(&["cost", "without", "with pre-copy", "ratio"]);
        type Figure = fn(&Rate) -> u64;
        let (mut checks, mut plots) = (Vec::new(), Vec::new());
        let mut figures = json!({
            "memory_bytes": self.size.as_u64(),
            "seconds": self.seconds,
            "clients": self.clients,
        });
        let middle =
            |all: &[Rate], figure: fn(&Rate) -> u64| median(all.iter().map(figure).collect());
        for (mix, rates) in redis {
            let rows: [(&str, Figure); 2] = [
                ("commands/s", |one| one.per_second),
                ("p99 in us", |one| one.p99_us),
            ];
            for (what, figure) in rows {
                let [with, without] = [0, 1].map(|side: usize| middle(&rates[side], figure));
                let (label, times) = (format!("redis, {mix}: {what}"), ratio(with, without));
                table.row(row(&label, with, without));
                checks.push(if what == "commands/s" {
                    Check::at_least(&label, times, THROUGHPUT)
                } else {
                    Check::at_most(&label, times, LATENCY)
                });
                plots.push(plot(&label, with, without));
            }
            figures[*mix] = json!({ "with": rates[0], "without": rates[1] });
        }
        let [with, without] = [0, 1].map(|side: usize| median(writes[side].clone()));
        table.row(row("random pages written/s", with, without));
        plots.push(plot("random pages written/s", with, without));
        figures["writes"] = json!({
            "with": writes[0],
            "without": writes[1],
            "ratio": ratio(with, without),
        });
        Outcome {
            scenario: "cost",
            table,
            figures,
            checks,
            plots,
        }
    }
}

fn row(label: &str, with: u64, without: u64) -> [String; 4] {
    [
        label.to_owned(),
        without.to_string(),
        with.to_string(),
        format!("{:.3}", ratio(with, without)),
    ]
}

fn plot(label: &str, with: u64, without: u64) -> Plot {
    let bars = [("without", without), ("with pre-copy", with)];
    Plot::new(
        label,
        "",
        bars.map(|(name, figure)| (name.to_owned(), ratio(figure, 1))),
    )
}
