//! What a delta costs on the wire: bytes sent for so many random pages, beside the size of just these
//! pages after compression; and for pages that were written with what they held.
//!
//! A checkpoint of nothing new has bytes of its own (CRIU's images, the manifest): they are measured
//! and taken off.

use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use super::{
    Bench, Setting,
    freeze::{Last, evacuate_after},
    report::{Check, Outcome, Plot, Table, ratio, size},
};
use crate::workload::Shape;

/// Acceptance: bytes sent to bytes of the compressed pages.
const SENT_TIMES: f64 = 1.05;

/// Most bytes that are sent for silent rewrites, beyond those of a checkpoint of nothing new: what
/// differs between two runs of the same program.
const NOTHING_BYTES: u64 = 256 << 10;

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct DeltaSize {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// Bytes in random pages that are written
    #[arg(long, value_delimiter = ',', default_value = "8MiB,32MiB")]
    deltas: Vec<ByteSize>,
}

/// One evacuation.
#[derive(Debug, serde::Serialize)]
struct One {
    written_bytes: u64,
    rewritten_bytes: u64,
    read_bytes: u64,
    sent_bytes: u64,
    compressed_bytes: u64,
}

impl DeltaSize {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let nothing = self.measure(&bench, 0, false).await?;
        let mut deltas = Vec::new();
        for delta in &self.deltas {
            deltas.push(self.measure(&bench, delta.as_u64(), false).await?);
        }
        let most = self.deltas.iter().map(ByteSize::as_u64).max().unwrap_or(0);
        let silent = self.measure(&bench, most, true).await?;
        bench.print(outcome(&self.shape, &nothing, &deltas, &silent))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(&self, bench: &Bench, bytes: u64, same: bool) -> anyhow::Result<One> {
        let name = format!("delta-{}-{bytes}-{same}", std::process::id());
        let last = Last { bytes, same };
        let (result, compressed_bytes) = evacuate_after(bench, &name, &self.shape, last).await?;
        let figure = |name: &str| result[name].as_u64().unwrap_or(0);
        Ok(One {
            written_bytes: if same { 0 } else { bytes },
            rewritten_bytes: if same { bytes } else { 0 },
            read_bytes: figure("read_bytes"),
            sent_bytes: figure("uploaded_bytes"),
            compressed_bytes,
        })
    }
}

fn outcome(shape: &Shape, nothing: &One, deltas: &[One], silent: &One) -> Outcome {
    let beyond = |one: &One| one.sent_bytes.saturating_sub(nothing.sent_bytes);
    let mut table = Table::new(&[
        "delta",
        "sent",
        "beyond nothing",
        "its pages compressed",
        "ratio",
    ]);
    let (mut checks, mut bars) = (Vec::new(), Vec::new());
    table.row(["nothing new".to_owned(), size(nothing.sent_bytes)]);
    for one in deltas {
        let times = ratio(beyond(one), one.compressed_bytes);
        let written = size(one.written_bytes);
        table.row([
            format!("{written} written"),
            size(one.sent_bytes),
            size(beyond(one)),
            size(one.compressed_bytes),
            format!("{times:.3}"),
        ]);
        checks.push(Check::at_most(
            format!("bytes sent for {written} to those of the compressed pages"),
            times,
            SENT_TIMES,
        ));
        bars.push((format!("{written}: sent"), ratio(beyond(one), 1 << 20)));
        let compressed = ratio(one.compressed_bytes, 1 << 20);
        bars.push((format!("{written}: compressed pages"), compressed));
    }
    let rewritten = size(silent.rewritten_bytes);
    table.row([
        format!("{rewritten} rewritten"),
        size(silent.sent_bytes),
        size(beyond(silent)),
    ]);
    #[expect(clippy::cast_precision_loss, reason = "a bound")]
    checks.push(Check::at_most(
        format!("bytes sent for {rewritten} that were written with what they held"),
        beyond(silent) as f64,
        NOTHING_BYTES as f64,
    ));
    Outcome {
        scenario: "delta-size",
        table,
        figures: json!({
            "workload_bytes": shape.size.as_u64(),
            "entropy": shape.entropy,
            "nothing": nothing,
            "deltas": deltas,
            "silent": silent,
        }),
        checks,
        plots: vec![Plot::new("Bytes of a delta", "MiB", bars)],
    }
}
