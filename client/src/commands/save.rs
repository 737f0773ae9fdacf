//! `evacuate`, `checkpoint` and `drill`.

use std::io::{self, Write as _};

use lifeboat_client::{Client, SaveEvent, Selected};
use tokio_stream::StreamExt as _;

use super::{EXIT_DEADLINE, EXIT_FAILED, Failure, print_line, print_text, progress::Bars};
use crate::{
    cli::{Output, Save},
    render::{Table, duration, or_dash, size},
    view::SaveView,
};

/// What is done with the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They are saved and ended.
    Evacuate,
    /// They are saved and run on.
    Checkpoint,
    /// It is rehearsed.
    Drill,
}

/// Saves workloads; one outcome for each.
pub(super) async fn save(
    client: &mut Client,
    output: Output,
    kind: Kind,
    save: Save,
) -> Result<u8, Failure> {
    let names: Vec<String> = save.names.iter().map(ToString::to_string).collect();
    let selected = if save.all {
        Selected::All
    } else {
        Selected::Names(save.names)
    };
    let mut events = match kind {
        Kind::Evacuate => client.evacuate(&selected, save.within).await?,
        Kind::Checkpoint => client.checkpoint(&selected, save.within).await?,
        Kind::Drill => client.drill(&selected, save.within).await?,
    };
    let mut bars = Bars::new();
    let mut results = Vec::new();
    let mut broken = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(SaveEvent::Progress(progress)) => {
                let (done, total) = (progress.done_bytes, progress.total_bytes);
                bars.update(&progress.workload, &progress.stage, done, total);
            }
            Ok(SaveEvent::Result(result)) => {
                let view = SaveView::from(result);
                bars.finish(&view.workload);
                if output == Output::Json {
                    bars.suspend(|| print_line(&view))?;
                }
                results.push(view);
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(bars);
    if output == Output::Text && !results.is_empty() {
        print_text(&table(&results))?;
    }
    explain(&results);
    if let Some(error) = broken {
        return Err(error.into());
    }
    let lost = names
        .iter()
        .filter(|name| !results.iter().any(|view| view.workload == **name));
    let lost: Vec<&str> = lost.map(String::as_str).collect();
    if !lost.is_empty() {
        note(&format!(
            "the daemon did not tell what became of {}",
            lost.join(", ")
        ));
        return Ok(EXIT_FAILED);
    }
    if results.is_empty() {
        note("there is no workload that you may touch");
    }
    Ok(exit_code(&results))
}

fn table(results: &[SaveView]) -> String {
    let mut table = Table::new(&[
        "WORKLOAD",
        "OUTCOME",
        ">FREEZE",
        ">TOTAL",
        ">MARGIN",
        ">MEMORY",
        ">READ",
        ">UPLOADED",
        "CHECKPOINT",
    ]);
    for view in results {
        table.row([
            view.workload.clone(),
            view.outcome.to_owned(),
            duration(view.freeze_ms),
            duration(view.total_ms),
            or_dash(view.margin_ms.map(duration)),
            size(view.memory_bytes),
            size(view.read_bytes),
            size(view.uploaded_bytes),
            or_dash(view.checkpoint.clone()),
        ]);
    }
    table.render()
}

/// Says on standard error what did not go well.
fn explain(results: &[SaveView]) {
    for view in results {
        if let Some(error) = &view.error {
            note(&format!("{}: {}: {error}", view.workload, view.outcome));
        }
    }
}

fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(writeln!(io::stderr(), "lifeboat: {text}"));
}

/// A failure outweighs a missed deadline.
fn exit_code(results: &[SaveView]) -> u8 {
    let code = |view: &SaveView| match view.outcome {
        "skipped" => EXIT_DEADLINE,
        _ if view.margin_ms.is_some_and(|margin| margin < 0) => EXIT_DEADLINE,
        "evacuated" | "checkpointed" | "rehearsed" | "gone" => 0,
        _ => EXIT_FAILED,
    };
    let codes: Vec<u8> = results.iter().map(code).collect();
    if codes.contains(&EXIT_FAILED) {
        EXIT_FAILED
    } else {
        codes.into_iter().max().unwrap_or(0)
    }
}
