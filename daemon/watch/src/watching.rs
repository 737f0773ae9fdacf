//! Starts the sources, and makes one stream of them.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    aws, azure,
    board::Board,
    client::Client,
    config::{CloudChoice, WatchConfig},
    detect::{self, Cloud},
    feed::{Feed, NOTICES_MAX, Report},
    file, gce,
    merge::Merge,
    notice::{Change, Confidence, Kind, Sighting, Source},
    signal,
};

/// Time between two looks for a configured metadata server that nobody answers at yet.
const DETECT_PAUSE: Duration = Duration::from_secs(1);

/// What the sources need to know.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The configuration.
    pub config: WatchConfig,
    /// Folder in which notice files appear.
    pub state_dir: PathBuf,
    /// How long this machine stays after a notice that does not say.
    pub notice: Duration,
    /// Shows what each source is doing.
    pub board: Board,
    /// Is set to the [`Kind`] of the most urgent notice that stands, early ones included: whoever copies
    /// memory ahead of time should hurry.
    pub hurry: watch::Sender<Option<Kind>>,
    /// Called with the time from an event to its notice, where the source tells when it began.
    pub detected: Detected,
}

/// Is told how long after an event its notice came.
#[derive(Clone)]
pub struct Detected(pub Arc<dyn Fn(Source, Duration) + Send + Sync>);

impl std::fmt::Debug for Detected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Detected")
    }
}

impl Default for Detected {
    fn default() -> Self {
        Self(Arc::new(|_, _| {}))
    }
}

/// How a notice about this machine was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Number of the notice; zero: it was withdrawn, and none is answered.
    pub number: u64,
    /// Workloads that were to be saved.
    pub workloads: usize,
    /// Those that are.
    pub saved: usize,
}

impl Answered {
    /// Whether there was something, and all of it is saved.
    #[must_use]
    pub const fn is_all_saved(&self) -> bool {
        self.workloads > 0 && self.saved == self.workloads
    }
}

/// Follows how notices are answered.
#[derive(Clone, Debug)]
pub struct Saved(watch::Receiver<Answered>);

impl Saved {
    /// Waits for the next answer.
    pub(crate) async fn next(&mut self) -> Answered {
        if self.0.changed().await.is_err() {
            // Nobody will say it any more.
            std::future::pending::<()>().await;
        }
        *self.0.borrow_and_update()
    }
}

/// The running sources.
#[derive(Debug)]
pub struct Watching {
    /// The way in for notices that come by a call.
    pub feed: Feed,
    /// The merged stream.
    pub changes: mpsc::Receiver<Change>,
    /// To be told when a notice about this machine was answered. Sources that can let the machine go
    /// earlier than at the deadline do so then.
    pub answered: watch::Sender<Answered>,
    /// The sources watch as long as this lives.
    pub tasks: Tasks,
}

/// The tasks of the sources; they end when this is dropped.
#[derive(Debug)]
pub struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Starts all sources that the configuration asks for.
#[must_use]
pub fn start(setup: &Setup) -> Watching {
    let (feed, reports) = Feed::new(setup.board.clone());
    let (changed, changes) = mpsc::channel(NOTICES_MAX);
    let (answered, heard) = watch::channel(Answered::default());
    let starter = Starter {
        setup: setup.clone(),
        feed: feed.clone(),
        saved: Saved(heard),
    };
    let mut tasks = starter.local();
    tasks.push(tokio::spawn(starter.clouds()));
    let (hurry, detected) = (setup.hurry.clone(), setup.detected.clone());
    tasks.push(tokio::spawn(merge(reports, changed, hurry, detected)));
    Watching {
        feed,
        changes,
        answered,
        tasks: Tasks(tasks),
    }
}

/// Starts sources.
#[derive(Debug)]
struct Starter {
    setup: Setup,
    feed: Feed,
    saved: Saved,
}

impl Starter {
    /// Those that every machine has.
    fn local(&self) -> Vec<JoinHandle<()>> {
        let Setup {
            state_dir, notice, ..
        } = &self.setup;
        let target = state_dir.join("notice").display().to_string();
        self.setup.board.add(Source::File, target);
        self.setup.board.add(Source::Signal, "SIGPWR".to_owned());
        let mut tasks = vec![
            tokio::spawn(file::run(state_dir.clone(), *notice, self.feed.clone())),
            tokio::spawn(signal::run(*notice, self.feed.clone())),
        ];
        #[cfg(feature = "logind")]
        if self.setup.config.logind.enabled {
            let config = self.setup.config.logind.clone();
            if let Some(bus) = crate::logind::bus(&config) {
                self.setup.board.add(Source::Logind, bus.clone());
                let logind =
                    crate::logind::run(bus, *notice, self.feed.clone(), self.saved.clone());
                tasks.push(tokio::spawn(logind));
            }
        }
        #[cfg(feature = "kubernetes")]
        if let Some(cluster) = crate::kubernetes::Cluster::find(&self.setup.config.kubernetes) {
            self.setup.board.add(Source::Kubernetes, cluster.describe());
            let kubernetes = crate::kubernetes::run(cluster, *notice, self.feed.clone());
            tasks.push(tokio::spawn(kubernetes));
        }
        tasks
    }

    /// The cloud's, when it is known which one that is.
    async fn clouds(self) {
        let config = &self.setup.config;
        let clouds = match &config.cloud {
            CloudChoice::These(clouds) => clouds.clone(),
            CloudChoice::Auto if config.has_own_endpoint() => loop {
                // Somebody has said that there is a server: it may start later than this daemon.
                let found = detect::by_asking(config).await;
                if !found.is_empty() {
                    break found;
                }
                tokio::time::sleep(DETECT_PAUSE).await;
            },
            CloudChoice::Auto => match detect::by_firmware() {
                Some(cloud) => cloud.into_iter().collect(),
                None => detect::by_asking(config).await,
            },
        };
        if clouds.is_empty() {
            tracing::info!(
                "this machine is in no cloud that is known; only local notices are watched"
            );
        }
        let watchers = clouds.into_iter().map(|cloud| self.cloud(cloud));
        let mut watchers: tokio::task::JoinSet<()> = watchers.collect();
        // Aborted with this task.
        while watchers.join_next().await.is_some() {}
    }

    fn cloud(&self, cloud: Cloud) -> impl Future<Output = ()> + Send + 'static {
        let config = self.setup.config.clone();
        let source = match cloud {
            Cloud::Gce => Source::Gce,
            Cloud::Aws => Source::Aws,
            Cloud::Azure => Source::Azure,
        };
        self.setup
            .board
            .add(source, config.endpoint(cloud).to_owned());
        let (feed, saved) = (self.feed.clone(), self.saved.clone());
        async move {
            let client = match Client::new(config.endpoint(cloud)) {
                Ok(client) => client,
                Err(error) => return feed.failure(source, &error),
            };
            match cloud {
                Cloud::Gce => gce::run(client, config.gce, feed).await,
                Cloud::Aws => aws::run(client, config.aws, feed).await,
                Cloud::Azure => azure::run(client, config.azure, feed, saved).await,
            }
        }
    }
}

/// Makes changes of reports until nobody reads them.
async fn merge(
    mut reports: mpsc::Receiver<Report>,
    changed: mpsc::Sender<Change>,
    hurry: watch::Sender<Option<Kind>>,
    detected: Detected,
) {
    let mut merge = Merge::default();
    loop {
        let end = merge.next_end();
        let ended = async {
            match end {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        let report = tokio::select! {
            report = reports.recv() => report.map(Some),
            () = ended => Some(None),
        };
        let Some(report) = report else { return };
        let changes = match report {
            None => merge.end(Instant::now()),
            Some(Report::Seen(sighting)) => {
                let seen = Seen::of(&sighting);
                let changes = merge.seen(sighting);
                if !changes.is_empty() {
                    seen.log(&detected);
                }
                changes
            }
            Some(Report::Gone(source, key)) => merge.gone(source, &key),
        };
        hurry.send_replace(merge.given().iter().map(|one| one.kind).max());
        for change in changes {
            if changed.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// What the log says of a sighting that has changed something.
#[derive(Debug)]
struct Seen {
    source: Source,
    kind: Kind,
    confidence: Confidence,
    key: String,
    remaining: Option<Duration>,
    detection: Option<Duration>,
}

impl Seen {
    fn of(sighting: &Sighting) -> Self {
        let now = Instant::now();
        Self {
            source: sighting.source,
            kind: sighting.kind,
            confidence: sighting.confidence,
            key: sighting.key.clone(),
            remaining: sighting
                .deadline
                .map(|at| at.saturating_duration_since(now)),
            detection: sighting.began_at.and_then(|at| at.elapsed().ok()),
        }
    }

    fn log(&self, detected: &Detected) {
        if let Some(detection) = self.detection {
            (detected.0)(self.source, detection);
        }
        tracing::warn!(
            source = %self.source,
            kind = ?self.kind,
            confidence = ?self.confidence,
            event = self.key,
            remaining_ms = self.remaining.as_ref().map(Duration::as_millis),
            detection_ms = self.detection.as_ref().map(Duration::as_millis),
            "notice seen"
        );
    }
}
