//! Google Compute Engine: `instance/preempted` of the metadata server.
//!
//! The value is read once and then waited for with its etag: a wait without an etag would wait for
//! the *next* change and miss one that was before it. Errors (the server answers 503 while it is
//! maintained) are never taken for `FALSE`: they are repeated after [`ERROR_PAUSE`].
//!
//! Source: "About VM metadata: wait for updates" and "Spot VMs: detect preemption", Google Cloud.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::{Kind, Notice, Watcher};
use crate::deadline::Deadline;

/// Path of the value.
const PATH: &str = "/computeMetadata/v1/instance/preempted";

/// How long the server holds a request open.
const WAIT_SECONDS: u64 = 60;

/// How much longer than that an answer may take.
const ANSWER_SLACK: Duration = Duration::from_secs(10);

/// Pause after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Why the server was not understood.
#[derive(Debug, thiserror::Error)]
pub enum GceError {
    /// Not a URL.
    #[error("metadata endpoint {endpoint:?} is not an http:// URL: {reason}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer.
    #[error("ask the metadata server: {reason}")]
    Request {
        /// What went wrong.
        reason: String,
    },
    /// Another answer than documented.
    #[error("the metadata server answered {status}: {body:?}")]
    Answer {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
}

/// Watches the metadata server.
#[derive(Debug)]
pub struct Gce {
    client: Client<HttpConnector, Empty<Bytes>>,
    base: String,
    notice: Duration,
    etag: Option<String>,
    preempted: bool,
}

impl Gce {
    /// Watches the server at `endpoint`; `notice` is how long the machine stays after the value has
    /// changed.
    ///
    /// # Errors
    /// When the endpoint is not a URL.
    pub fn new(endpoint: &str, notice: Duration) -> Result<Self, GceError> {
        let base = endpoint.trim_end_matches('/').to_owned();
        let wrong = |reason: String| GceError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let uri: http::Uri = base
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("the metadata server speaks plain http".to_owned()));
        }
        // No proxy is ever asked: the address is this machine's own business.
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self {
            client,
            base,
            notice,
            etag: None,
            preempted: false,
        })
    }

    async fn ask(&mut self) -> Result<bool, GceError> {
        let wait = self.etag.as_ref().map(|etag| {
            format!("?wait_for_change=true&last_etag={etag}&timeout_sec={WAIT_SECONDS}")
        });
        let uri = format!("{}{PATH}{}", self.base, wait.unwrap_or_default());
        let failed = |reason: String| GceError::Request { reason };
        let request = http::Request::get(uri)
            .header("Metadata-Flavor", "Google")
            .body(Empty::new())
            .map_err(|error| failed(error.to_string()))?;
        let limit = Duration::from_secs(WAIT_SECONDS) + ANSWER_SLACK;
        let answer = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| failed(crate::observe::chain(&error)))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
            Ok((parts, String::from_utf8_lossy(&body).trim().to_owned()))
        };
        let (parts, body) = tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| failed(format!("no answer within {limit:?}")))??;
        let preempted = match (parts.status.as_u16(), body.as_str()) {
            (200, "TRUE") => true,
            (200, "FALSE") => false,
            (status, _) => return Err(GceError::Answer { status, body }),
        };
        let etag = parts
            .headers
            .get("etag")
            .and_then(|value| value.to_str().ok());
        self.etag = etag.map(str::to_owned);
        Ok(preempted)
    }
}

#[async_trait]
impl Watcher for Gce {
    fn name(&self) -> &'static str {
        "gce"
    }

    async fn next(&mut self) -> Notice {
        loop {
            match self.ask().await {
                Ok(now) => {
                    let before = std::mem::replace(&mut self.preempted, now);
                    if now && !before {
                        let deadline = Deadline::within(self.notice);
                        return Notice {
                            source: "gce",
                            kind: Kind::Preemption,
                            deadline,
                        };
                    }
                    if self.etag.is_none() {
                        // A server without etags cannot be waited on.
                        tokio::time::sleep(ERROR_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(error = crate::observe::chain(&error), "asked again");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
}
