//! Who says that this machine will go.
//!
//! Each source is a [`Watcher`] of its own and reports [`Notice`]s into one bounded queue;
//! [`respond`] acts on them. A source that fails goes on trying: an error is never taken for "no
//! notice", and never for one.

mod file;
pub mod gce;
mod respond;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{daemon::Context, deadline::Deadline};

/// Most notices waiting to be acted on.
const NOTICES_MAX: usize = 16;

/// What will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is decided yet.
    Early,
    /// The machine is being taken away.
    Preemption,
    /// The machine is going down for maintenance.
    Maintenance,
}

/// Somebody says that this machine will go.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Who says so.
    pub source: &'static str,
    /// What will happen.
    pub kind: Kind,
    /// When it will happen at the earliest.
    pub deadline: Deadline,
}

/// A source of notices.
#[async_trait]
pub trait Watcher: Send {
    /// Its name, for logs.
    fn name(&self) -> &'static str;

    /// Waits for the next notice.
    async fn next(&mut self) -> Notice;
}

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
pub fn start(context: &Arc<Context>, drain: &CancellationToken) -> Watching {
    let (report, notices) = mpsc::channel(NOTICES_MAX);
    let mut watchers: Vec<Box<dyn Watcher>> = Vec::new();
    let config = &context.config;
    if let Some(endpoint) = &config.metadata_endpoint {
        match gce::Gce::new(endpoint, config.notice) {
            Ok(watcher) => watchers.push(Box::new(watcher)),
            Err(error) => tracing::error!(%error, "the metadata server is not watched"),
        }
    }
    let path: PathBuf = config.state_dir.join("notice");
    watchers.push(Box::new(file::NoticeFile::new(path, config.notice)));
    let mut tasks: Vec<JoinHandle<()>> = watchers
        .into_iter()
        .map(|watcher| tokio::spawn(follow(watcher, report.clone())))
        .collect();
    tasks.push(tokio::spawn(respond::run(
        notices,
        Arc::clone(context),
        drain.clone(),
    )));
    Watching(tasks)
}

async fn follow(mut watcher: Box<dyn Watcher>, report: mpsc::Sender<Notice>) {
    loop {
        let notice = watcher.next().await;
        tracing::warn!(
            source = watcher.name(),
            kind = ?notice.kind,
            remaining_ms = notice.deadline.remaining().as_ref().map(Duration::as_millis),
            "notice"
        );
        if report.send(notice).await.is_err() {
            return;
        }
    }
}
