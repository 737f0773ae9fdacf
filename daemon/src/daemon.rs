//! The life cycle: build, serve, drain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use lifeboat_criu::{Bundle, BundleError, WorkDir};
use lifeboat_format::{Seal, StoreKey, manifest::Platform};
use lifeboat_proto::v1;
use lifeboat_store::{OpenError, Store};

use crate::{
    claim::Heads,
    config::Config,
    drill,
    evacuate::{self, outcomes::Outcomes},
    journal::{Journal, JournalError},
    observe::metrics::{Metrics, WorkloadLabels},
    pipeline::{Buffers, Rates},
    platform, precopy, restore,
    service::{self, identity::Caller, socket::SocketError},
    warm::Warm,
    watch,
    workload::Registry,
};

/// Where the sockets of CRIU are made: short, in memory, and visible in every workload's mount
/// namespace on a plain machine.
const RUNTIME_DIR: &str = "/run/lifeboat/work";

/// Most logs of CRIU that are kept.
const CRIU_LOGS_MAX: usize = 40;

/// Most of one log that is kept, in bytes.
const CRIU_LOG_BYTES_MAX: u64 = 4 << 20;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The CRIU bundle cannot be used.
    #[error("open the CRIU bundle {path}; `deploy/setup.sh` makes it")]
    Criu {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// The store cannot be used.
    #[error("open the store")]
    Store(#[source] OpenError),
    /// The key of the store cannot be read.
    #[error("read the key of the store from {path}: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A folder cannot be made.
    #[error("make folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be used.
    #[error("open the journal")]
    Journal(#[source] JournalError),
    /// The socket cannot be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A network address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("set up TLS: {reason}")]
    Tls {
        /// What is wrong.
        reason: String,
    },
}

/// The daemon's parts, shared by everything that it does.
#[derive(Debug)]
pub struct Context {
    /// What it was told.
    pub config: Config,
    /// Where checkpoints go.
    pub store: Arc<dyn Store>,
    /// Room for memory that was read of frozen workloads.
    pub buffers: Buffers,
    /// Authenticates what is stored.
    pub seal: Arc<Seal>,
    /// Who has the right to commit.
    pub heads: Heads,
    /// CRIU and what goes with it.
    pub criu: Bundle,
    /// What this machine is like.
    pub platform: Platform,
    /// Packs that are kept near, if any may be.
    pub warm: Option<Arc<Warm>>,
    /// All workloads.
    pub registry: Registry,
    /// What was about to happen.
    pub journal: Journal,
    /// What was measured of the link to the store, the processors and the codecs.
    pub rates: Arc<Rates>,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// Outcomes of saves that a hold may not have heard of.
    pub outcomes: Outcomes,
    /// When the daemon was started.
    pub started_at: SystemTime,
    /// What the sources of notices are doing.
    pub sources: lifeboat_watch::Board,
    /// Kind of the most urgent notice that stands, early signals included: whoever copies memory ahead
    /// of time should hurry.
    pub hurry: tokio::sync::watch::Sender<Option<lifeboat_watch::Kind>>,
    /// The way in for notices that come by a call, once the sources are watched.
    pub feed: OnceLock<lifeboat_watch::Feed>,
    notice: Mutex<Option<v1::Notice>>,
}

impl Context {
    /// Puts the parts together.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub async fn build(config: Config) -> Result<Arc<Self>, StartError> {
        std::fs::create_dir_all(&config.state_dir).map_err(|source| StartError::Folder {
            path: config.state_dir.clone(),
            source,
        })?;
        let seal = Arc::new(seal(&config)?);
        let criu = bundle(&config).map_err(|source| StartError::Criu {
            path: config.criu_bundle.clone(),
            source,
        })?;
        let store = lifeboat_store::open(&config.store, &lifeboat_store::Options::default())
            .await
            .map_err(StartError::Store)?;
        let platform = platform::of_this_machine(&config.node, &criu);
        let heads = Heads::new(
            Arc::clone(&store),
            Arc::clone(&seal),
            config.node.clone(),
            config.lease,
        );
        let journal = Journal::open(&config.state_dir).map_err(StartError::Journal)?;
        let warm = warm(&config)?;
        Ok(Arc::new(Self {
            warm,
            buffers: Buffers::new(config.save.buffer_bytes),
            store,
            seal,
            heads,
            criu,
            platform,
            registry: Registry::default(),
            journal,
            rates: Arc::new(Rates::new(config.save.threads)),
            metrics: Metrics::default(),
            outcomes: Outcomes::default(),
            started_at: SystemTime::now(),
            sources: lifeboat_watch::Board::default(),
            hurry: tokio::sync::watch::Sender::new(None),
            feed: OnceLock::new(),
            notice: Mutex::default(),
            config,
        }))
    }

    /// A new work directory for CRIU.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn work_dir(&self) -> io::Result<WorkDir> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("{:08x}", rand::random::<u32>());
        let path = PathBuf::from(RUNTIME_DIR).join(name);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        Ok(WorkDir::same(path))
    }

    /// Keeps the log of a CRIU run below the state directory, at most [`CRIU_LOGS_MAX`] of them, and
    /// removes its work directory.
    pub fn put_away(&self, work_dir: &Path, name: &str) {
        let logs = self.config.state_dir.join("criu-logs");
        if let Err(error) = keep_log(work_dir, &logs, name) {
            tracing::debug!(%error, "the log of a CRIU run is not kept");
        }
        if let Err(error) = std::fs::remove_dir_all(work_dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %work_dir.display(), %error, "cannot remove a work directory");
        }
    }

    /// All figures for Prometheus, as they are now.
    #[must_use]
    pub fn figures(&self) -> String {
        let workloads = self.registry.visible(&Caller::operator());
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.workloads.set(number(workloads.len() as u64));
        let figures = &self.metrics.of_workloads;
        figures.clear();
        for workload in workloads {
            let labels = WorkloadLabels {
                workload: workload.name.to_string(),
            };
            let view = workload.view();
            if let Some(drill) = &view.last_drill {
                figures.rehearsed(&labels, drill);
            }
            let Some(ahead) = view.ahead else {
                continue;
            };
            let known = &ahead.figures;
            let unsaved = figures.unsaved.get_or_create(&labels);
            unsaved.set(number(known.unsaved_bytes()));
            if let Some(time) = precopy::time_to_safe(known) {
                let gauge = figures.time_to_safe.get_or_create(&labels);
                gauge.set(time.as_secs_f64());
            }
            let late = figures.not_evacuable.get_or_create(&labels);
            late.set(i64::from(ahead.late.is_some()));
            let stored = figures.stored.get_or_create(&labels);
            stored.set(number(known.stored_bytes.0));
        }
        self.metrics.of_codecs.update(&self.rates);
        self.metrics.text()
    }

    /// Remembers the latest notice, or that it was withdrawn.
    pub fn note_notice(&self, change: &lifeboat_watch::Change) {
        let now = match change {
            lifeboat_watch::Change::Withdrawn(_) => None,
            lifeboat_watch::Change::Given(notice) | lifeboat_watch::Change::Changed(notice) => {
                Some(watch::shown(notice))
            }
        };
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// The latest notice, if there is one that stands.
    #[must_use]
    pub fn notice(&self) -> Option<v1::Notice> {
        self.notice
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What keeps a checkpoint of another machine from being restored on this one.
    #[must_use]
    pub fn platform_mismatch(&self, stored: &Platform) -> Vec<String> {
        platform::mismatch(stored, &self.platform)
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> Result<(), StartError> {
    let context = Context::build(config).await?;
    evacuate::recover::recover(&context);
    restore::handover::clear_up();
    let drain = tokio_util::sync::CancellationToken::new();
    let serving = service::serve(Arc::clone(&context), drain.clone()).await?;
    let renewing = tokio::spawn(service::renew::run(Arc::clone(&context), drain.clone()));
    let watching = watch::start(&context, &drain);
    let drilling = tokio::spawn(drill::run(Arc::clone(&context), drain.clone()));
    tracing::info!(
        node = context.config.node,
        socket = %context.config.socket.display(),
        store = context.store.describe(),
        criu = %context.platform.criu_version,
        "ready"
    );
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager was told");
    }
    if stop_signal().await == Stop::Terminate && lifeboat_watch::machine_is_stopping().await {
        watching.machine_is_stopping(&context).await;
    }
    tracing::info!("draining");
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    drain.cancel();
    // Saves under way finish or are called off; holds and their workloads live on.
    drop(tokio::time::timeout(DRAIN_TIMEOUT, serving.finished()).await);
    renewing.abort();
    drop(tokio::time::timeout(DRAIN_TIMEOUT, watching.finished()).await);
    // Called off by the drain; what it has frozen is let go.
    drop(tokio::time::timeout(DRAIN_TIMEOUT, drilling).await);
    drop(std::fs::remove_file(&context.config.socket));
    Ok(())
}

/// Longest time that requests under way may take when the daemon stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

async fn stop_signal() -> Stop {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen for signals; only SIGKILL stops this daemon");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => Stop::Terminate,
        _ = interrupt.recv() => Stop::Interrupt,
    }
}

/// The CRIU bundle, with the page filter and the hook that go with this daemon.
///
/// # Errors
/// When a part is missing, or the version is not one that this daemon knows.
pub fn bundle(config: &Config) -> Result<Bundle, BundleError> {
    Bundle::with_tools(
        &config.criu_bundle,
        &config.libexec.join("liblifeboat_preload.so"),
        &config.libexec.join("lifeboat-hook"),
    )
}

fn keep_log(work_dir: &Path, logs: &Path, name: &str) -> io::Result<()> {
    std::fs::create_dir_all(logs)?;
    for kind in ["dump", "restore"] {
        let log = work_dir.join(format!("{kind}.log"));
        let mut from = match std::fs::File::open(&log) {
            Ok(file) => io::Read::take(file, CRIU_LOG_BYTES_MAX),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let to = logs.join(format!("{name}-{kind}.log"));
        io::copy(&mut from, &mut std::fs::File::create(to)?)?;
    }
    let mut all: Vec<_> = std::fs::read_dir(logs)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // Names begin with a time-ordered id.
    all.sort_unstable();
    for old in &all[..all.len().saturating_sub(CRIU_LOGS_MAX)] {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

fn warm(config: &Config) -> Result<Option<Arc<Warm>>, StartError> {
    if config.warm.bytes == 0 {
        return Ok(None);
    }
    let folder = config.warm.folder.clone();
    let path = folder.unwrap_or_else(|| config.state_dir.join("warm"));
    let opened = Warm::open(path.clone(), config.warm.bytes);
    let warm = opened.map_err(|source| StartError::Folder { path, source })?;
    Ok(Some(Arc::new(warm)))
}

fn seal(config: &Config) -> Result<Seal, StartError> {
    let Some(path) = &config.key_file else {
        return Ok(Seal::plain());
    };
    let fail = |reason: String| StartError::Key {
        path: path.clone(),
        reason,
    };
    let secret = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let key = StoreKey::from_secret(&secret).map_err(|error| fail(error.to_string()))?;
    Ok(Seal::keyed(&key))
}
