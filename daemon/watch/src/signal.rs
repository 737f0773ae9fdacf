//! SIGPWR, and what SIGTERM means.
//!
//! SIGPWR comes from programs that watch a power supply: the machine will go. SIGTERM to the daemon is
//! *not* a notice: it is how a service manager restarts or upgrades it, and workloads live on under
//! their holds. Only when systemd says that the whole machine is stopping ([`machine_is_stopping`]) is
//! it one.

use std::time::Duration;

use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{
    feed::Feed,
    notice::{Confidence, Sighting, Source},
};

/// Longest time that the service manager may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Waits for SIGPWR until the task is aborted.
pub(crate) async fn run(notice: Duration, feed: Feed) {
    let power = SignalKind::from_raw(rustix::process::Signal::POWER.as_raw());
    let mut power = match signal(power) {
        Ok(power) => power,
        Err(error) => return feed.failure(Source::Signal, &error),
    };
    feed.success(Source::Signal);
    while power.recv().await.is_some() {
        let sighting = Sighting::new(Source::Signal, "SIGPWR").within(notice);
        feed.seen(sighting.confidence(Confidence::Likely)).await;
    }
}

/// Whether systemd is taking the whole machine down. `false` where it does not run, or does not answer.
pub async fn machine_is_stopping() -> bool {
    let asked = Command::new("systemctl")
        .arg("is-system-running")
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(ANSWER_LIMIT, asked).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        _ => false,
    }
}
