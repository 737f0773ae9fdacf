//! Google Compute Engine: `instance/preempted` and `instance/maintenance-event`.
//!
//! Each value is read once and then waited for with its etag: a wait without an etag would wait for the
//! *next* change and miss one that was before it. Errors (the server answers 503 for a moment while it
//! is maintained) are never taken for `FALSE`: they are repeated after [`ERROR_PAUSE`].
//!
//! `preempted` changes when the machine is told to power off, up to 30 s before it is cut off, or, with
//! `--preemption-notice-duration=120s`, 120 s before that (`notice` in the configuration says which).
//! `TERMINATE_ON_HOST_MAINTENANCE` comes 60 s ahead; a live migration ends no program and is an early
//! signal only.
//!
//! Source: "About VM metadata: wait for updates", "Spot VMs: detect preemption" and "Get host
//! maintenance notices", Google Cloud.

use std::time::Duration;

use crate::{
    client::{Answer, Client, ClientError},
    config::GceConfig,
    feed::Feed,
    notice::{Kind, Sighting, Source},
};

/// Folder of the values.
const FOLDER: &str = "/computeMetadata/v1/instance/";

/// Without this header the server refuses.
const HEADERS: &[(&str, &str)] = &[("Metadata-Flavor", "Google")];

/// How long the server holds a request open.
const WAIT_SECONDS: u64 = 60;

/// Longest time for an answer that is not waited for, and how much longer than asked for others may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Pause after an error, and between looks where the server gives no etag.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Longest etag that is sent back, in bytes.
const ETAG_BYTES_MAX: usize = 128;

/// Watches both values until the task is aborted.
pub(crate) async fn run(client: Client, config: GceConfig, feed: Feed) {
    let preempted = Value::new(&client, "preempted");
    let maintenance = Value::new(&client, "maintenance-event");
    tokio::join!(
        preempted.follow(&feed, |text| preemption(text, &config)),
        maintenance.follow(&feed, |text| self::maintenance(text, &config)),
    );
}

/// What a value means; `None`: it is not one that is documented.
type Meaning = Option<Option<Sighting>>;

fn preemption(text: &str, config: &GceConfig) -> Meaning {
    match text.trim() {
        "TRUE" => Some(Some(
            Sighting::new(Source::Gce, "preempted").within(config.notice),
        )),
        "FALSE" => Some(None),
        _ => None,
    }
}

fn maintenance(text: &str, config: &GceConfig) -> Meaning {
    let sighting =
        Sighting::new(Source::Gce, "maintenance-event").within(config.maintenance_notice);
    match text.trim() {
        "NONE" => Some(None),
        "MIGRATE_ON_HOST_MAINTENANCE" => Some(Some(sighting.kind(Kind::Early))),
        "TERMINATE_ON_HOST_MAINTENANCE" => Some(Some(sighting.kind(Kind::Maintenance))),
        _ => None,
    }
}

/// One value of the server.
#[derive(Debug)]
struct Value {
    client: Client,
    key: &'static str,
    etag: Option<String>,
}

impl Value {
    fn new(client: &Client, key: &'static str) -> Self {
        Self {
            client: client.clone(),
            key,
            etag: None,
        }
    }

    async fn follow(mut self, feed: &Feed, meaning: impl Fn(&str) -> Meaning) {
        let mut last = String::new();
        loop {
            match self
                .ask()
                .await
                .and_then(|answer| match meaning(&answer.body) {
                    Some(sighting) => Ok((answer, sighting)),
                    None => Err(answer.unexpected()),
                }) {
                Ok((answer, sighting)) => {
                    feed.success(Source::Gce);
                    self.etag = etag(&answer);
                    if answer.body != last {
                        last = answer.body;
                        match sighting {
                            Some(sighting) => feed.seen(sighting).await,
                            None => feed.gone(Source::Gce, self.key).await,
                        }
                    }
                    if self.etag.is_none() {
                        // A server without etags cannot be waited on.
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                }
                Err(error) => {
                    feed.failure(Source::Gce, &error);
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn ask(&self) -> Result<Answer, ClientError> {
        let (wait, limit) = match &self.etag {
            None => (String::new(), ANSWER_LIMIT),
            Some(etag) => (
                format!("?wait_for_change=true&last_etag={etag}&timeout_sec={WAIT_SECONDS}"),
                ANSWER_LIMIT + Duration::from_secs(WAIT_SECONDS),
            ),
        };
        let path = format!("{FOLDER}{}{wait}", self.key);
        let answer = self.client.get(&path, HEADERS, limit).await?;
        // Another server at this address (a captive portal, a proxy) does not send this header.
        if answer.status == 200 && answer.header("metadata-flavor") == Some("Google") {
            Ok(answer)
        } else {
            Err(answer.unexpected())
        }
    }
}

/// The etag, if it is one that can be sent back as it is.
fn etag(answer: &Answer) -> Option<String> {
    let etag = answer.header("etag")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let can = !etag.is_empty() && etag.len() <= ETAG_BYTES_MAX && etag.bytes().all(is_plain);
    can.then(|| etag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documented_values_mean_something() {
        let config = GceConfig::default();
        assert_eq!(preemption("FALSE", &config), Some(None));
        let kind = |meaning: Meaning| meaning.flatten().map(|sighting| sighting.kind);
        assert_eq!(kind(preemption("TRUE\n", &config)), Some(Kind::Preemption));
        for text in ["", "true", "FALSE TRUE", "<html>", "NONE", "\0"] {
            assert_eq!(preemption(text, &config), None, "{text:?}");
        }
        assert_eq!(maintenance("NONE", &config), Some(None));
        let migrate = maintenance("MIGRATE_ON_HOST_MAINTENANCE", &config);
        assert_eq!(kind(migrate), Some(Kind::Early));
        let terminate = maintenance("TERMINATE_ON_HOST_MAINTENANCE", &config);
        assert_eq!(kind(terminate), Some(Kind::Maintenance));
        assert_eq!(maintenance("TERMINATE", &config), None);
    }
}
