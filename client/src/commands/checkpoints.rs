//! `checkpoints`, `inspect`, `verify`, `delete` and `gc`.

use lifeboat_client::Client;
use lifeboat_proto::{id::WorkloadName, v1::CheckpointName};
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::{EXIT_FAILED, Failure, print, progress::Bars};
use crate::{
    cli::{Delete, OneCheckpoint, Output},
    render::{Table, or_dash, pairs, size},
    view::{CheckpointView, InspectView},
};

#[derive(Debug, Serialize)]
struct VerifyView {
    workload: String,
    checkpoint: Option<String>,
    checked_bytes: u64,
    complete: bool,
    faults: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DeleteView {
    workload: String,
    checkpoint: String,
    deleted: bool,
}

#[derive(Debug, Serialize)]
struct GarbageView {
    objects: u64,
    bytes: u64,
    dry_run: bool,
}

/// Lists checkpoints.
pub(super) async fn list(
    client: &mut Client,
    output: Output,
    name: Option<&WorkloadName>,
) -> Result<u8, Failure> {
    let entries = client.checkpoints(name).await?;
    let views: Vec<CheckpointView> = entries.into_iter().map(Into::into).collect();
    print(output, &views, || {
        let mut table = Table::new(&[
            "WORKLOAD",
            "CHECKPOINT",
            "FROZEN AT",
            ">MEMORY",
            ">EPOCH",
            "LATEST",
        ]);
        for view in &views {
            table.row([
                view.workload.clone(),
                view.checkpoint.clone(),
                or_dash(view.frozen_at.clone()),
                size(view.memory_bytes),
                view.epoch.to_string(),
                if view.latest { "yes" } else { "" }.to_owned(),
            ]);
        }
        table.render()
    })?;
    Ok(0)
}

/// Shows what a checkpoint holds.
pub(super) async fn inspect(
    client: &mut Client,
    output: Output,
    one: OneCheckpoint,
) -> Result<u8, Failure> {
    let view = InspectView::from(client.inspect(named(&one)).await?);
    print(output, &view, || describe(&view))?;
    Ok(0)
}

/// Checks a checkpoint.
pub(super) async fn verify(
    client: &mut Client,
    output: Output,
    one: OneCheckpoint,
) -> Result<u8, Failure> {
    let name = named(&one);
    let mut view = VerifyView {
        workload: name.workload.clone(),
        checkpoint: (!name.checkpoint.is_empty()).then(|| name.checkpoint.clone()),
        checked_bytes: 0,
        complete: false,
        faults: Vec::new(),
    };
    let mut events = client.verify(name).await?;
    let mut bars = Bars::new();
    while let Some(event) = events.next().await {
        let event = event?;
        bars.update(
            &view.workload,
            "verify",
            event.checked_bytes,
            event.total_bytes,
        );
        view.checked_bytes = event.checked_bytes;
        view.complete |= event.done;
        if !event.fault.is_empty() {
            view.faults.push(event.fault);
        }
    }
    drop(bars);
    print(output, &view, || {
        let mut text = String::new();
        for fault in &view.faults {
            text = text + &view.workload + ": " + fault + "\n";
        }
        let verdict = match (view.complete, view.faults.len()) {
            (false, _) => "the check did not come to its end".to_owned(),
            (true, 0) => "intact".to_owned(),
            (true, faults) => format!("damaged, {faults} faults"),
        };
        text + &format!(
            "{}: {} checked: {verdict}\n",
            view.workload,
            size(view.checked_bytes)
        )
    })?;
    Ok(if view.complete && view.faults.is_empty() {
        0
    } else {
        EXIT_FAILED
    })
}

/// Deletes a checkpoint.
pub(super) async fn delete(
    client: &mut Client,
    output: Output,
    delete: Delete,
) -> Result<u8, Failure> {
    let (workload, checkpoint) = (delete.name.to_string(), delete.checkpoint.to_string());
    let name = CheckpointName {
        workload: workload.clone(),
        checkpoint: checkpoint.clone(),
    };
    client.delete(name, delete.force).await?;
    let view = DeleteView {
        workload,
        checkpoint,
        deleted: true,
    };
    print(output, &view, || {
        format!("{}: deleted {}\n", view.workload, view.checkpoint)
    })?;
    Ok(0)
}

/// Deletes what no checkpoint uses.
pub(super) async fn collect_garbage(
    client: &mut Client,
    output: Output,
    dry_run: bool,
) -> Result<u8, Failure> {
    let collected = client.collect_garbage(dry_run).await?;
    let view = GarbageView {
        objects: collected.objects,
        bytes: collected.bytes,
        dry_run,
    };
    print(output, &view, || {
        let what = if dry_run {
            "would be deleted"
        } else {
            "deleted"
        };
        format!("{} objects, {} {what}\n", view.objects, size(view.bytes))
    })?;
    Ok(0)
}

pub(super) fn named(one: &OneCheckpoint) -> CheckpointName {
    CheckpointName {
        workload: one.name.to_string(),
        checkpoint: one.checkpoint.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// The frames by codec.
fn codecs(view: &InspectView) -> String {
    let all = view.codecs.iter().map(|one| {
        let (raw, stored) = (size(one.raw_bytes), size(one.stored_bytes));
        format!("{} {} ({raw} in {stored})", one.frames, one.codec)
    });
    or_dash(Some(all.collect::<Vec<_>>().join(", ")).filter(|all| !all.is_empty()))
}

fn describe(view: &InspectView) -> String {
    let mut text = pairs(&[
        ("workload", view.workload.clone()),
        ("checkpoint", view.checkpoint.clone()),
        ("command", view.argv.join(" ")),
        ("user", view.uid.to_string()),
        ("frozen at", or_dash(view.frozen_at.clone())),
        ("written by", view.node.clone()),
        ("epoch", view.epoch.to_string()),
        ("architecture", view.architecture.clone()),
        ("kernel", view.kernel_release.clone()),
        ("criu", view.criu_version.clone()),
        ("memory", size(view.memory_bytes)),
        ("files", size(view.file_bytes)),
        (
            "frames",
            format!("{}, {} stored", view.frames, size(view.stored_bytes)),
        ),
        ("decoded", size(view.raw_bytes)),
        ("codecs", codecs(view)),
    ]);
    let mut spaces = Table::new(&[">PID", ">PAGES", ">RUNS"]);
    for space in &view.address_spaces {
        spaces.row([
            space.pid.to_string(),
            space.pages.to_string(),
            space.runs.to_string(),
        ]);
    }
    let sized = |title, entries: &[crate::view::SizedView]| {
        let mut table = Table::new(&[title, ">SIZE"]);
        for entry in entries {
            table.row([entry.name.clone(), size(entry.size_bytes)]);
        }
        table.render()
    };
    text = text + "\n" + &spaces.render();
    text = text + "\n" + &sized("PACK", &view.packs);
    text + "\n" + &sized("IMAGE FILE", &view.image_files)
}
