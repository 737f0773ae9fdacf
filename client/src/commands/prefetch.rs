//! `prefetch`.

use lifeboat_client::Client;
use lifeboat_proto::v1::CheckpointName;
use serde::Serialize;
use tokio_stream::StreamExt as _;

use super::{EXIT_FAILED, Failure, checkpoints::named, print, progress::Bars};
use crate::{
    cli::{Output, Prefetch},
    render::size,
};

#[derive(Debug, Default, Serialize)]
struct PrefetchView {
    workload: String,
    checkpoint: String,
    warm_bytes: u64,
    total_bytes: u64,
    fetched_bytes: u64,
    complete: bool,
}

/// Brings a checkpoint near, once or again and again. What does not fit is a failure.
pub(super) async fn prefetch(
    client: &mut Client,
    output: Output,
    prefetch: Prefetch,
) -> Result<u8, Failure> {
    let name = named(&prefetch.which);
    loop {
        let view = once(client, name.clone()).await?;
        if prefetch.every.is_none() || view.fetched_bytes > 0 {
            print(output, &view, || text(&view))?;
        }
        match prefetch.every {
            Some(every) => tokio::time::sleep(every).await,
            None => return Ok(if view.complete { 0 } else { EXIT_FAILED }),
        }
    }
}

async fn once(client: &mut Client, name: CheckpointName) -> Result<PrefetchView, Failure> {
    let mut view = PrefetchView {
        workload: name.workload.clone(),
        ..PrefetchView::default()
    };
    let mut events = client.prefetch(name).await?;
    let mut bars = Bars::new();
    while let Some(event) = events.next().await {
        let event = event?;
        bars.update(
            &view.workload,
            "prefetch",
            event.warm_bytes,
            event.total_bytes,
        );
        view.complete = event.done && event.warm_bytes == event.total_bytes;
        view.checkpoint = event.checkpoint;
        view.warm_bytes = event.warm_bytes;
        view.total_bytes = event.total_bytes;
        view.fetched_bytes = event.fetched_bytes;
    }
    Ok(view)
}

fn text(view: &PrefetchView) -> String {
    let room = if view.complete {
        ""
    } else {
        "; there is no more room"
    };
    format!(
        "{}: {} of {} are here, {} fetched now{room}\n",
        view.workload,
        size(view.warm_bytes),
        size(view.total_bytes),
        size(view.fetched_bytes)
    )
}
