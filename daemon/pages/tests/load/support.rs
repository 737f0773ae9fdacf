//! What all tests here begin and end with.

use std::sync::Arc;

use lifeboat_pages::{FrameSource, Options, PageServer, Report, Space};

use crate::target::{PATIENCE, PID, Program, Target};

/// A target that was handed over and waits to go.
pub(crate) fn begin(
    program: Program,
    source: Arc<dyn FrameSource>,
    space: Space,
) -> (PageServer, Target) {
    begin_with(
        program,
        source,
        space,
        Options::new(tokio::runtime::Handle::current()),
    )
}

/// The same with other options.
pub(crate) fn begin_with(
    program: Program,
    source: Arc<dyn FrameSource>,
    space: Space,
    options: Options,
) -> (PageServer, Target) {
    let server = PageServer::start(source, vec![space], options).unwrap();
    let mut target = program.start();
    server.add(PID, target.descriptor()).unwrap();
    // The target faults meanwhile, and other threads answer.
    target.restored();
    (server, target)
}

/// Waits for the end of a load, and for what the target says of it.
pub(crate) async fn judge(server: &PageServer, target: Target) -> Result<Report, String> {
    let failed = async {
        match server.loaded().await {
            Ok(_) => std::future::pending().await,
            Err(error) => format!("{error:?}"),
        }
    };
    tokio::select! {
        verdict = target.verdict() => verdict?,
        error = failed => return Err(error),
        () = tokio::time::sleep(PATIENCE) => {
            return Err(format!("the target hangs: {:?}", server.progress()));
        }
    }
    tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .map_err(|_| format!("the load hangs: {:?}", server.progress()))?
        .map_err(|error| format!("{error:?}"))
}
