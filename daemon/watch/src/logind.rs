//! systemd-logind: the power button, `shutdown`, and clouds that only press the button.
//!
//! A *delay* lock is held all the time. When the machine is told to stop, logind says so
//! (`PrepareForShutdown`) and waits for whoever holds one, up to its `InhibitDelayMaxSec` (5 s unless
//! configured; `deploy/systemd/logind.conf` makes it 30 s): this is the deadline. The lock is let go when
//! there is nothing more to do, and taken anew when the shutdown was called off.
//!
//! A bus that is not there or goes away is tried again. Without the lock the notice still comes, late.
//!
//! Source: "Inhibitor Locks" and `org.freedesktop.login1(5)`, systemd.

use std::{path::Path, time::Duration};

use futures::StreamExt as _;
use zbus::{Connection, Proxy, connection::Builder, zvariant::OwnedFd};

use crate::{
    config::LogindConfig,
    feed::Feed,
    notice::{Confidence, Kind, Sighting, Source},
    watching::Saved,
};

/// Where the system's bus listens.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Pause after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(5);

/// Longest time for an answer of the bus or of logind.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The only event that this source knows.
const KEY: &str = "PrepareForShutdown";

/// How much of logind's patience is left for it to hear that the lock is gone.
const RESERVE: Duration = Duration::from_millis(200);

/// Why logind is not watched for the moment.
#[derive(Debug, thiserror::Error)]
enum LogindError {
    /// The bus or logind refused.
    #[error("{attempted} over D-Bus")]
    Bus {
        attempted: &'static str,
        source: zbus::Error,
    },
    /// No answer.
    #[error("{attempted} over D-Bus: no answer within {ANSWER_LIMIT:?}")]
    Late { attempted: &'static str },
    /// The connection is gone.
    #[error("the connection to the bus has ended")]
    Ended,
}

/// The address of the bus to use; `None`: this machine has none.
pub(crate) fn bus(config: &LogindConfig) -> Option<String> {
    let system = || {
        Path::new(SYSTEM_BUS)
            .exists()
            .then(|| format!("unix:path={SYSTEM_BUS}"))
    };
    config.bus.clone().or_else(system)
}

/// Watches logind until the task is aborted.
pub(crate) async fn run(bus: String, notice: Duration, feed: Feed, mut saved: Saved) {
    loop {
        let Err(error) = follow(&bus, notice, &feed, &mut saved).await;
        feed.failure(Source::Logind, &error);
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

async fn follow(
    bus: &str,
    notice: Duration,
    feed: &Feed,
    saved: &mut Saved,
) -> Result<std::convert::Infallible, LogindError> {
    let connection = within("connect to the bus", async {
        Builder::address(bus)?.build().await
    });
    let logind = Logind::of(&connection.await?).await?;
    // Heard of from now on; so nothing is missed between the lock and the first look.
    let signals = logind.0.receive_signal("PrepareForShutdown");
    let mut signals = within("listen to logind", signals).await?;
    let mut lock = Some(logind.lock().await?);
    feed.success(Source::Logind);
    loop {
        let begins = tokio::select! {
            signal = signals.next() => {
                let body = signal.ok_or(LogindError::Ended)?;
                let begins: Result<bool, _> = body.body().deserialize();
                begins.map_err(|source| LogindError::Bus { attempted: "understand logind", source })?
            }
            answered = saved.next() => {
                // If the machine stays after all, it is guarded again.
                if answered.number > 0 && lock.take().is_some() {
                    let (workloads, saved) = (answered.workloads, answered.saved);
                    tracing::info!(workloads, saved, "a shutdown is not delayed any longer");
                }
                continue;
            }
        };
        if begins {
            let patience = logind.patience().await.unwrap_or(notice);
            let within = patience.saturating_sub(RESERVE).min(notice);
            let sighting = Sighting::new(Source::Logind, KEY).kind(Kind::Maintenance);
            feed.seen(sighting.within(within).confidence(Confidence::Certain))
                .await;
        } else {
            feed.gone(Source::Logind, KEY).await;
            if lock.is_none() {
                lock = Some(logind.lock().await?);
            }
        }
    }
}

/// logind's manager.
#[derive(Debug)]
struct Logind(Proxy<'static>);

impl Logind {
    async fn of(connection: &Connection) -> Result<Self, LogindError> {
        let (name, path) = ("org.freedesktop.login1", "/org/freedesktop/login1");
        let proxy = Proxy::new(connection, name, path, "org.freedesktop.login1.Manager");
        Ok(Self(within("find logind", proxy).await?))
    }

    /// A delay lock; it lasts until its descriptor is closed.
    async fn lock(&self) -> Result<OwnedFd, LogindError> {
        let why = (
            "shutdown",
            "lifeboatd",
            "Workloads are being saved",
            "delay",
        );
        within("delay a shutdown", self.0.call("Inhibit", &why)).await
    }

    /// How long logind waits for whoever holds a delay lock.
    async fn patience(&self) -> Result<Duration, LogindError> {
        let value = self.0.get_property::<u64>("InhibitDelayMaxUSec");
        let micros = within("ask how long a shutdown is delayed", value).await?;
        Ok(Duration::from_micros(micros))
    }
}

async fn within<T>(
    attempted: &'static str,
    work: impl Future<Output = Result<T, zbus::Error>>,
) -> Result<T, LogindError> {
    match tokio::time::timeout(ANSWER_LIMIT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(LogindError::Bus { attempted, source }),
        Err(_) => Err(LogindError::Late { attempted }),
    }
}
