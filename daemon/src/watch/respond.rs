//! What is done about a notice: every workload is evacuated within the time that is left.

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Kind, Notice};
use crate::{
    daemon::Context,
    evacuate::{Mode, Save, report::SaveReport},
    observe::chain,
    service::{identity::Caller, outcome},
    workload::Phase,
};

/// Acts on notices until the queue is closed.
pub(super) async fn run(
    mut notices: mpsc::Receiver<Notice>,
    context: Arc<Context>,
    drain: CancellationToken,
) {
    while let Some(notice) = notices.recv().await {
        context.note_notice(&notice);
        if notice.kind == Kind::Preemption {
            evacuate_all(&context, &notice, &drain).await;
        }
    }
}

async fn evacuate_all(context: &Arc<Context>, notice: &Notice, drain: &CancellationToken) {
    let mut saves = JoinSet::new();
    for workload in context.registry.visible(&Caller::operator()) {
        if matches!(workload.view().phase, Phase::Evacuated | Phase::Ended) {
            continue;
        }
        let (context, deadline) = (Arc::clone(context), notice.deadline);
        let cancel = drain.child_token();
        saves.spawn(async move {
            let report = SaveReport::default();
            let save = Save {
                context: &context,
                workload: &workload,
                mode: Mode::Evacuate,
                deadline,
                cancel,
                report: &report,
            };
            let result = save.run().await;
            outcome::count(&context, Mode::Evacuate, &report, &result);
            outcome::log(&workload, Mode::Evacuate, deadline, &report, &result);
            result.map_err(|error| chain(&error)).is_ok()
        });
    }
    let (mut saved, mut all) = (0, 0);
    while let Some(done) = saves.join_next().await {
        all += 1;
        saved += usize::from(done.unwrap_or(false));
    }
    tracing::warn!(
        source = notice.source,
        workloads = all,
        saved,
        margin_ms = notice.deadline.margin_ms(),
        "notice answered"
    );
}
