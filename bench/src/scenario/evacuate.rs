//! From the notice until a workload is safe in the store: Lifeboat after pre-copy, Lifeboat cold, and
//! what a user would take instead, in the same run and against the same store.

use std::{process::ExitCode, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Bench, Setting,
    moves::Move,
    node::{Node, Orders},
    report::{Check, Outcome, Plot, Table, median, ratio, seconds, size},
    stock, streamer,
};
use crate::workload::Shape;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// A workload counts as saved when no more is left than it writes in this time.
const STEADY: u64 = 10;

/// Smallest remainder that is waited for, in bytes.
const UNSAVED_BYTES: u64 = 32 << 20;

/// Acceptance: times faster than the best peer, after pre-copy.
const WARM_TIMES: f64 = 20.0;

/// Acceptance: times faster than the best peer, cold.
const COLD_TIMES: f64 = 2.0;

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Evacuate {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Longest time that pre-copy has before the notice comes, in seconds
    #[arg(long, default_value_t = 120)]
    settle: u16,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Warm,
    Cold,
    Stock,
    Streamer,
}

impl Contestant {
    const ALL: [Self; 4] = [Self::Warm, Self::Cold, Self::Stock, Self::Streamer];

    const fn name(self) -> &'static str {
        match self {
            Self::Warm => "lifeboat",
            Self::Cold => "cold",
            Self::Stock => "stock",
            Self::Streamer => "streamer",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Warm => "lifeboat after pre-copy",
            Self::Cold => "lifeboat without pre-copy",
            Self::Stock => "criu dump, zstd -1, upload",
            Self::Streamer => "criu dump --stream, zstd -1, upload",
        }
    }
}

impl Evacuate {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let mut moves: [Vec<Move>; 4] = Default::default();
        for round in 0..self.rounds {
            // Neither always meets a store and caches that another has warmed.
            let mut order = Contestant::ALL;
            let first = usize::from(round) % order.len();
            order.rotate_left(first);
            for who in order {
                if let Some(one) = self.measure(&bench, who, round).await? {
                    moves[who as usize].push(one);
                }
            }
        }
        bench.print(self.outcome(&moves))?;
        Ok(ExitCode::SUCCESS)
    }

    /// `None`: this one is not installed here.
    async fn measure(
        &self,
        bench: &Bench,
        who: Contestant,
        round: u16,
    ) -> anyhow::Result<Option<Move>> {
        let name = format!("{}-{}-{round}", who.name(), std::process::id());
        let moved = match who {
            Contestant::Warm => self.leave(bench, &name, true).await.map(Some),
            Contestant::Cold => self.leave(bench, &name, false).await.map(Some),
            Contestant::Stock => stock::leave(bench, &self.shape, &name).await.map(Some),
            Contestant::Streamer => streamer::leave(bench, &self.shape, &name).await,
        };
        bench.empty_store()?;
        moved
    }

    async fn leave(&self, bench: &Bench, name: &str, precopy: bool) -> anyhow::Result<Move> {
        let orders = Orders {
            precopy,
            ..Orders::default()
        };
        let node = Node::start(bench, name, orders).await?;
        let mut workload = node.run(name, &self.shape)?;
        workload.wait_for("ready", LIMIT).await?;
        if precopy {
            let written = self.shape.dirty_rate.as_u64() * STEADY;
            let left = written.max(UNSAVED_BYTES).min(self.shape.size.as_u64() / 4);
            let settle = Duration::from_secs(self.settle.into());
            // A notice comes whether or not all is well.
            drop(node.wait_until_saved(name, left, settle).await);
        }
        let before = node.workload(name).await?;
        let mut result = node.evacuate(name).await?;
        result["unsaved_bytes"] = before["unsaved_bytes"].clone();
        result["time_to_safe_ms"] = before["time_to_safe_ms"].clone();
        workload.end(LIMIT).await?;
        node.stop().await?;
        Ok(Move {
            freeze_ms: result["freeze_ms"].as_u64().unwrap_or(0),
            safe_ms: committed_ms(&result),
            uploaded_bytes: result["uploaded_bytes"].as_u64().unwrap_or(0),
            details: result,
            ..Move::default()
        })
    }

    fn outcome(&self, moves: &[Vec<Move>; 4]) -> Outcome {
        let middle = |who: Contestant, figure: fn(&Move) -> u64| {
            median(moves[who as usize].iter().map(figure).collect())
        };
        let safe_ms = |who| middle(who, |one| one.safe_ms);
        let mut table = Table::new(&["evacuate", "until safe", "frozen until read", "sent"]);
        let mut bars = Vec::new();
        for who in Contestant::ALL {
            if moves[who as usize].is_empty() {
                table.row([who.title().to_owned(), "not installed".to_owned()]);
                continue;
            }
            table.row([
                who.title().to_owned(),
                seconds(safe_ms(who)),
                seconds(middle(who, |one| one.freeze_ms)),
                size(middle(who, |one| one.uploaded_bytes)),
            ]);
            #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
            bars.push((who.title().to_owned(), safe_ms(who) as f64 / 1000.0));
        }
        let peers = [Contestant::Stock, Contestant::Streamer].map(safe_ms);
        let best = peers.into_iter().filter(|ms| *ms > 0).min().unwrap_or(0);
        let times = |who| ratio(best, safe_ms(who));
        let mut figures = json!({
            "workload_bytes": self.shape.size.as_u64(),
            "dirty_rate": self.shape.dirty_rate.as_u64(),
            "locality": self.shape.locality.word(),
            "entropy": self.shape.entropy,
            "best_peer_ms": best,
            "warm_times": times(Contestant::Warm),
            "cold_times": times(Contestant::Cold),
        });
        for who in Contestant::ALL {
            figures[who.name()] = json!(moves[who as usize]);
        }
        Outcome {
            scenario: "evacuate",
            table,
            figures,
            checks: vec![
                Check::at_least(
                    "times faster than the best peer, after pre-copy",
                    times(Contestant::Warm),
                    WARM_TIMES,
                ),
                Check::at_least(
                    "times faster than the best peer, cold",
                    times(Contestant::Cold),
                    COLD_TIMES,
                ),
            ],
            plots: vec![Plot::new(
                format!(
                    "Evacuation of {} at {}/s",
                    size(self.shape.size.as_u64()),
                    ByteSize(self.shape.dirty_rate.as_u64()).display().si()
                ),
                "s",
                bars,
            )],
        }
    }
}

/// From the call until the store acknowledged the commit.
fn committed_ms(result: &Value) -> u64 {
    let mut stages = result["stages"].as_array().into_iter().flatten();
    let commit = stages.find(|stage| stage["stage"] == "commit");
    let after = commit.and_then(|stage| stage["ended_after_ms"].as_u64());
    after.or(result["total_ms"].as_u64()).unwrap_or(0)
}
