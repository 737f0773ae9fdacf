//! The API server: one list, one watch.

use std::{fmt, path::PathBuf, time::Duration};

use reqwest::{Certificate, Client, Response, redirect::Policy};
use serde::Deserialize;
use serde_json::Value;

use crate::{config::KubernetesConfig, feed::chain};

/// Where Kubernetes mounts the credentials of a pod.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Longest time for a list.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// How long a watch is to last; then everything is listed again.
const WATCH_SECONDS: u64 = 240;

/// Longest silence of a watch, which has bookmarks about once a minute.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS + 20);

/// Largest list, in bytes: some hundred pods of some ten kilobytes.
const LIST_BYTES_MAX: usize = 32 << 20;

/// Longest line of a watch, in bytes: an object is at most 1.5 MiB in etcd.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Longest name of a node.
const NAME_BYTES_MAX: usize = 253;

/// Why the server was not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("read the credentials {path}")]
    Credentials {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("set up a client of the API server: {reason}")]
    Client { reason: String },
    #[error("ask {uri}: {reason}")]
    Request { uri: String, reason: String },
    #[error(
        "ask {uri}: the answer {status}; may the service account list and watch nodes and pods?"
    )]
    Refused { uri: String, status: u16 },
    #[error("ask {uri}: the answer is larger than {limit} bytes")]
    TooLarge { uri: String, limit: usize },
    #[error("ask {uri}: the answer is not one that is documented")]
    Answer { uri: String },
}

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// An object is now like this.
    Now(Value),
    /// An object is no longer there; this is how it last was.
    Deleted(Value),
    /// The watch goes on.
    Nothing,
}

/// The cluster of the own node.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    node: String,
    endpoint: String,
    credentials: PathBuf,
}

impl Cluster {
    /// The cluster that is configured, or that Kubernetes has told this container of.
    pub(crate) fn find(config: &KubernetesConfig) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let node = config.node.clone().or_else(|| variable("NODE_NAME"))?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if node.is_empty() || node.len() > NAME_BYTES_MAX || !node.bytes().all(is_plain) {
            tracing::error!(node, "not the name of a node; Kubernetes is not watched");
            return None;
        }
        let told = || {
            let (host, port) = (
                variable("KUBERNETES_SERVICE_HOST")?,
                variable("KUBERNETES_SERVICE_PORT")?,
            );
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host
            };
            Some(format!("https://{host}:{port}"))
        };
        Some(Self {
            node,
            endpoint: config.endpoint.clone().or_else(told)?,
            credentials: config
                .credentials
                .clone()
                .unwrap_or_else(|| CREDENTIALS.into()),
        })
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn describe(&self) -> String {
        format!("node {} at {}", self.node, self.endpoint)
    }

    /// All objects at `path`, and the version from which to watch.
    pub(crate) async fn list(&self, path: &str) -> Result<(Vec<Value>, String), ApiError> {
        #[derive(Deserialize)]
        struct List {
            metadata: Metadata,
            #[serde(default)]
            items: Vec<Value>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: String,
        }
        let uri = format!("{}{path}", self.endpoint);
        let read = async {
            let mut answer = self.get(&uri).await?;
            let mut body = Vec::new();
            while let Some(chunk) = chunk(&mut answer, &uri).await? {
                body.extend_from_slice(&chunk);
                if body.len() > LIST_BYTES_MAX {
                    let limit = LIST_BYTES_MAX;
                    return Err(ApiError::TooLarge {
                        uri: uri.clone(),
                        limit,
                    });
                }
            }
            Ok(body)
        };
        let body = match tokio::time::timeout(LIST_LIMIT, read).await {
            Ok(body) => body?,
            Err(_) => {
                let reason = format!("no answer within {LIST_LIMIT:?}");
                return Err(ApiError::Request { uri, reason });
            }
        };
        let list: List = serde_json::from_slice(&body).map_err(|_| ApiError::Answer { uri })?;
        Ok((list.items, list.metadata.resource_version))
    }

    /// What happens to the objects at `path` after `version`.
    pub(crate) async fn watch(&self, path: &str, version: &str) -> Result<Watch, ApiError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
        let uri = format!(
            "{}{path}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}\
             &resourceVersion={version}",
            self.endpoint
        );
        if !version.bytes().all(is_plain) {
            return Err(ApiError::Answer { uri });
        }
        Ok(Watch {
            answer: self.get(&uri).await?,
            uri,
            pending: Vec::new(),
        })
    }

    async fn get(&self, uri: &str) -> Result<Response, ApiError> {
        // Read anew each time: tokens are exchanged while the daemon runs.
        let token = self.read("token").await?;
        let request = self.client().await?.get(uri).bearer_auth(token.trim());
        let sent = tokio::time::timeout(LIST_LIMIT, request.send()).await;
        let failed = |reason: String| ApiError::Request {
            uri: uri.to_owned(),
            reason,
        };
        let answer = sent
            .map_err(|_| failed(format!("no answer within {LIST_LIMIT:?}")))?
            .map_err(|error| failed(chain(&error)))?;
        if answer.status() == 200 {
            return Ok(answer);
        }
        Err(ApiError::Refused {
            uri: uri.to_owned(),
            status: answer.status().as_u16(),
        })
    }

    async fn client(&self) -> Result<Client, ApiError> {
        let failed = |error: reqwest::Error| ApiError::Client {
            reason: chain(&error),
        };
        let mut builder = Client::builder().no_proxy().redirect(Policy::none());
        if self.endpoint.starts_with("https:") {
            let authority = self.read("ca.crt").await?;
            let authority = Certificate::from_pem_bundle(authority.as_bytes()).map_err(failed)?;
            builder = builder.tls_certs_only(authority);
        }
        builder.build().map_err(failed)
    }

    async fn read(&self, name: &str) -> Result<String, ApiError> {
        let path = self.credentials.join(name);
        let text = tokio::fs::read_to_string(&path).await;
        text.map_err(|source| ApiError::Credentials { path, source })
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// A watch under way.
#[derive(Debug)]
pub(crate) struct Watch {
    answer: Response,
    uri: String,
    pending: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end of the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ApiError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return self.event(&line).map(Some);
            }
            if self.pending.len() > LINE_BYTES_MAX {
                let (uri, limit) = (self.uri.clone(), LINE_BYTES_MAX);
                return Err(ApiError::TooLarge { uri, limit });
            }
            let next = chunk(&mut self.answer, &self.uri);
            match tokio::time::timeout(SILENCE_MAX, next).await {
                Ok(Ok(Some(bytes))) => self.pending.extend_from_slice(&bytes),
                Ok(Ok(None)) | Err(_) => return Ok(None),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    fn event(&self, line: &[u8]) -> Result<Event, ApiError> {
        #[derive(Deserialize)]
        struct Line {
            r#type: String,
            object: Value,
        }
        let wrong = || ApiError::Answer {
            uri: self.uri.clone(),
        };
        let Line { r#type, object } = serde_json::from_slice(line).map_err(|_| wrong())?;
        match &*r#type {
            "ADDED" | "MODIFIED" => Ok(Event::Now(object)),
            "DELETED" => Ok(Event::Deleted(object)),
            "BOOKMARK" => Ok(Event::Nothing),
            // ERROR: among others 410, the server has forgotten this version.
            _ => Err(wrong()),
        }
    }
}

async fn chunk(answer: &mut Response, uri: &str) -> Result<Option<Vec<u8>>, ApiError> {
    let chunk = answer.chunk().await;
    let chunk = chunk.map_err(|error| ApiError::Request {
        uri: uri.to_owned(),
        reason: chain(&error),
    })?;
    Ok(chunk.map(|bytes| bytes.to_vec()))
}
