//! A client that writes all the time, loses its server, finds it again and goes on.
//!
//! Prints one JSON object for each event on standard output: `connected`, `disconnected`,
//! `first-answer` after a disconnection, and `stopped`, each with `at_unix_ms` and the time since the
//! last acknowledged write, `away_ms`.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    connection::Connection,
    content::{written_key, written_value},
    record::Recorder,
};

/// Pause between attempts to connect.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug, Serialize)]
struct Event {
    event: &'static str,
    at_unix_ms: u64,
    acknowledged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    away_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug)]
struct Writer {
    recorder: Recorder,
    acknowledged: u64,
    next: u64,
    answered_at: Option<Instant>,
    lost: bool,
}

/// Writes until SIGTERM or SIGINT.
pub(super) async fn write(address: SocketAddr, record: &Path, rate: u32) -> anyhow::Result<()> {
    let recorder = Recorder::create(record)?;
    let mut writer = Writer {
        recorder,
        acknowledged: 0,
        next: 0,
        answered_at: None,
        lost: false,
    };
    let pause = Duration::from_secs(1) / rate.max(1);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    while !ended.is_finished() {
        let Ok(connection) = Connection::open(address).await else {
            tokio::time::sleep(RETRY_INTERVAL).await;
            continue;
        };
        writer.say("connected", None);
        match writer.talk(connection, pause, || ended.is_finished()).await {
            Ok(()) => break,
            Err(error) => {
                writer.recorder.flush()?;
                writer.lost = true;
                writer.say("disconnected", Some(error.to_string()));
            }
        }
    }
    writer.recorder.flush()?;
    writer.say("stopped", None);
    Ok(())
}

impl Writer {
    /// Writes over one connection until it breaks.
    async fn talk(
        &mut self,
        mut connection: Connection,
        pause: Duration,
        ended: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !ended() {
            ticks.tick().await;
            let number = self.next;
            self.next += 1;
            let written = connection
                .set(&written_key(number), &written_value(number))
                .await;
            if let Err(error) = written {
                self.recorder.tried(number)?;
                return Err(error);
            }
            self.recorder.acknowledged(number)?;
            self.acknowledged += 1;
            if std::mem::take(&mut self.lost) {
                self.say("first-answer", None);
            }
            self.answered_at = Some(Instant::now());
        }
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "this is the result")]
    fn say(&self, event: &'static str, reason: Option<String>) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let event = Event {
            event,
            at_unix_ms: millis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
            acknowledged: self.acknowledged,
            away_ms: self.answered_at.map(|at| millis(at.elapsed())),
            reason,
        };
        println!(
            "{}",
            serde_json::to_string(&event).expect("plain values become JSON")
        );
    }
}
