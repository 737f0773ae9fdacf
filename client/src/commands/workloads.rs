//! `list`, `status NAME` and `attach`.

use lifeboat_client::{Client, ClientError};
use lifeboat_proto::{id::WorkloadName, v1::TcpPolicy};

use super::{Failure, print};
use crate::{
    cli::{Attach, Output, Tcp},
    render::{Table, duration, or_dash, pairs, size},
    view::{DetailView, WorkloadView},
};

/// Lists workloads.
pub(super) async fn list(client: &mut Client, output: Output) -> Result<u8, Failure> {
    let workloads = client.list().await?;
    let views: Vec<WorkloadView> = workloads.into_iter().map(Into::into).collect();
    print(output, &views, || table(&views))?;
    Ok(0)
}

/// Shows one workload.
pub(super) async fn status(
    client: &mut Client,
    output: Output,
    name: &WorkloadName,
) -> Result<u8, Failure> {
    let view =
        DetailView::of(client.get(name).await?).ok_or(ClientError::Incomplete("workload"))?;
    print(output, &view, || detail(&view))?;
    Ok(0)
}

/// Registers a running tree.
pub(super) async fn attach(
    client: &mut Client,
    output: Output,
    attach: Attach,
) -> Result<u8, Failure> {
    let what = "find the working directory";
    let directory = std::env::current_dir().map_err(|source| Failure::System { what, source })?;
    let preserve = attach.preserve.iter().map(|path| {
        let path = directory.join(path).into_os_string();
        path.into_string().map_err(|path| {
            Failure::Usage(format!(
                "--preserve is not text in UTF-8: {}",
                path.display()
            ))
        })
    });
    let preserve = preserve.collect::<Result<Vec<_>, _>>()?;
    let tcp = match attach.tcp {
        Tcp::Close => TcpPolicy::Close,
        Tcp::Keep => TcpPolicy::Keep,
    };
    let workload = client
        .attach(&attach.workload, attach.pid, preserve, tcp)
        .await?;
    let view = WorkloadView::from(workload);
    print(output, &view, || table(std::slice::from_ref(&view)))?;
    Ok(0)
}

fn table(workloads: &[WorkloadView]) -> String {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        ">PID",
        ">MEMORY",
        ">UNSAVED",
        ">TIME TO SAFE",
        "LAST CHECKPOINT",
    ]);
    for view in workloads {
        table.row([
            view.name.clone(),
            view.state.to_owned(),
            view.pid.to_string(),
            size(view.memory_bytes),
            size(view.unsaved_bytes),
            or_dash(view.time_to_safe_ms.map(duration)),
            or_dash(view.last_checkpoint_at.clone()),
        ]);
    }
    table.render()
}

/// What there is to say of a workload itself.
fn facts(workload: &WorkloadView) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("name", workload.name.clone()),
        ("state", workload.state.to_owned()),
        ("command", workload.argv.join(" ")),
        ("pid", workload.pid.to_string()),
        ("user", workload.uid.to_string()),
        (
            "under a hold",
            if workload.held { "yes" } else { "no" }.to_owned(),
        ),
        ("memory", size(workload.memory_bytes)),
        ("unsaved", size(workload.unsaved_bytes)),
        (
            "time to safe",
            or_dash(workload.time_to_safe_ms.map(duration)),
        ),
        ("last checkpoint", or_dash(workload.last_checkpoint.clone())),
        ("frozen at", or_dash(workload.last_checkpoint_at.clone())),
        ("established tcp", workload.tcp.to_owned()),
        ("priority", workload.priority.to_string()),
        ("epoch", workload.epoch.to_string()),
    ];
    if workload.missing_bytes > 0 {
        lines.push(("not loaded yet", size(workload.missing_bytes)));
    }
    if let Some(precopy) = &workload.precopy {
        let rate = |bytes| format!("{}/s", size(bytes));
        lines.push(("writes", rate(precopy.dirty_bytes_per_second)));
        lines.push(("can be saved", rate(precopy.saved_bytes_per_second)));
        lines.push(("left for the freeze", size(precopy.left_bytes)));
        let stored = format!(
            "{}, of which {} are the latest",
            size(precopy.stored_bytes),
            size(precopy.live_bytes)
        );
        lines.push(("stored", stored));
    }
    if let Some(drill) = &workload.last_drill {
        let at = or_dash(drill.ended_at.clone());
        let took = or_dash(drill.total_ms.map(duration));
        lines.push(match &drill.error {
            None => {
                let margin = or_dash(drill.margin_ms.map(duration));
                let text = format!("{at}: saved after {took}, margin {margin}");
                ("last drill", text)
            }
            Some(error) => ("last drill", format!("{at}: not saved: {error}")),
        });
    }
    if let Some(why) = &workload.not_evacuable {
        lines.push(("not evacuable", why.clone()));
    }
    if let Some(error) = &workload.last_error {
        lines.push(("last error", error.clone()));
    }
    lines
}

fn detail(view: &DetailView) -> String {
    let mut text = pairs(&facts(&view.workload));
    let mut processes = Table::new(&[
        ">PID",
        ">INNER PID",
        "NAME",
        ">THREADS",
        ">RESIDENT",
        "TRACKING",
    ]);
    for process in &view.processes {
        processes.row([
            process.pid.to_string(),
            process.inner_pid.to_string(),
            process.name.clone(),
            process.threads.to_string(),
            size(process.resident_bytes),
            process.tracking.clone(),
        ]);
    }
    if !view.processes.is_empty() {
        text = text + "\n" + &processes.render();
    }
    let mut blockers = Table::new(&["IN THE WAY", ">PID", "EFFECT", "WHAT TO DO"]);
    for blocker in &view.blockers {
        blockers.row([
            blocker.kind.clone(),
            blocker.pid.to_string(),
            if blocker.fatal {
                "cannot be saved"
            } else {
                "something is lost"
            }
            .to_owned(),
            blocker.detail.clone(),
        ]);
    }
    if view.blockers.is_empty() {
        text + "\nNothing keeps it from being saved.\n"
    } else {
        text + "\n" + &blockers.render()
    }
}
