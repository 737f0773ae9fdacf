//! Who says that this machine will go.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::daemon::Context;

/// The running watchers.
#[derive(Debug)]
pub struct Watching(Vec<JoinHandle<()>>);

impl Watching {
    /// Stops them.
    pub fn abort(self) {
        for task in self.0 {
            task.abort();
        }
    }
}

/// Starts the watchers that the configuration asks for.
#[must_use]
pub fn start(_context: &Arc<Context>, _drain: &CancellationToken) -> Watching {
    Watching(Vec::new())
}
