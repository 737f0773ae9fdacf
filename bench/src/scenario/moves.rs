//! The same program leaves a machine and comes back, by Lifeboat and by what comes with Linux.
//!
//! Both write to the same store, over the same client with as many transfers at once; the peer's tools
//! are joined by pipes, so that compressing and sending overlap. Both orders are measured.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    Bench, Setting, lifeboat,
    report::{Outcome, Table, median, seconds, size},
    stock,
};
use crate::workload::Shape;

/// The scenarios `leave` and `come`.
#[derive(Debug, Args)]
pub(crate) struct Moves {
    #[command(flatten)]
    pub(super) setting: Setting,
    #[command(flatten)]
    pub(super) shape: Shape,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The way to the store.
    Leave,
    /// The way from the store.
    Come,
}

/// One move of one contestant, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Move {
    /// From the freeze until nothing more is read of the program.
    pub freeze_ms: u64,
    /// From the call until the program is safe in the store.
    pub safe_ms: u64,
    /// Bytes sent.
    pub uploaded_bytes: u64,
    /// From the call until the program shows a sign of life on the other side.
    pub alive_ms: u64,
    /// From the call until it has looked at all of its memory.
    pub verified_ms: u64,
    /// What the contestant itself says of it.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Figures {
    scenario: &'static str,
    store: String,
    workload_bytes: u64,
    entropy: u8,
    lifeboat: Vec<Move>,
    stock: Vec<Move>,
    ratios: Vec<(&'static str, f64)>,
}

impl Moves {
    pub(super) async fn run(self, direction: Direction) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            // Neither always meets a store and caches that the other has warmed.
            if round % 2 == 0 {
                ours.push(lifeboat::go(&bench, &self.shape, round).await?);
                theirs.push(stock::go(&bench, &self.shape, round).await?);
            } else {
                theirs.push(stock::go(&bench, &self.shape, round).await?);
                ours.push(lifeboat::go(&bench, &self.shape, round).await?);
            }
        }
        self.print(&bench, direction, ours, theirs)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(
        &self,
        bench: &Bench,
        direction: Direction,
        ours: Vec<Move>,
        theirs: Vec<Move>,
    ) -> anyhow::Result<()> {
        type Figure = (&'static str, fn(&Move) -> u64);
        let (scenario, times): (_, &[Figure]) = match direction {
            Direction::Leave => (
                "leave",
                &[
                    ("frozen until all is read", |one| one.freeze_ms),
                    ("until it is safe", |one| one.safe_ms),
                ],
            ),
            Direction::Come => (
                "come",
                &[
                    ("until it runs", |one| one.alive_ms),
                    ("until it has used all its memory", |one| one.verified_ms),
                ],
            ),
        };
        let middle =
            |moves: &[Move], figure: fn(&Move) -> u64| median(moves.iter().map(figure).collect());
        let mut table = Table::new(&[scenario, "lifeboat", "criu + zstd", "ratio"]);
        let mut ratios = Vec::new();
        for (what, figure) in times {
            let (mine, other) = (middle(&ours, *figure), middle(&theirs, *figure));
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
            let ratio = other as f64 / mine.max(1) as f64;
            ratios.push((*what, ratio));
            table.row([
                (*what).to_owned(),
                seconds(mine),
                seconds(other),
                format!("{ratio:.1}"),
            ]);
        }
        let sent = |moves: &[Move]| size(middle(moves, |one| one.uploaded_bytes));
        table.row(["sent".to_owned(), sent(&ours), sent(&theirs), String::new()]);
        let figures = Figures {
            scenario,
            store: bench.store.clone(),
            workload_bytes: self.shape.size.as_u64(),
            entropy: self.shape.entropy,
            lifeboat: ours,
            stock: theirs,
            ratios,
        };
        bench.print(Outcome {
            scenario,
            table,
            figures: serde_json::to_value(&figures)?,
            checks: Vec::new(),
            plots: Vec::new(),
        })
    }
}
