//! The few calls of the API server that are needed: list, and watch.
//!
//! No proxy, no redirect; TLS against the cluster's own authority and nobody else's; every list, line
//! and wait is bounded. The token is read for each request: Kubernetes renews it on disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use reqwest::{Certificate, Client, Response, Url, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};

use super::verdict::{Metadata, Node, Pod, ServerClock};

/// Longest time for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest time for a list.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// How long the server lets a watch last, in seconds. Short, so that a connection that has died
/// without a word is noticed.
const WATCH_SECONDS: u64 = 60;

/// How much longer than that a watch may take.
const WATCH_SLACK: Duration = Duration::from_secs(10);

/// Time between probes of a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Largest list, in bytes: a node has up to some hundred pods of some 10 KiB.
const LIST_BYTES_MAX: usize = 32 << 20;

/// Largest object in a watch, in bytes: etcd does not store larger ones.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Largest credential file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most of an unexpected answer that is shown, in characters.
const QUOTE_CHARS: usize = 200;

/// Why the API server was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// No address, or not one.
    #[error(
        "API server {endpoint:?}: {reason}; inside a pod the address is given by Kubernetes, elsewhere \
         set `endpoint` in [watch.kubernetes]"
    )]
    Endpoint { endpoint: String, reason: String },
    /// A credential cannot be read.
    #[error("read {path}, which Kubernetes mounts into pods that have a service account")]
    Credential {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The authority is none.
    #[error("understand the authority in {path}")]
    Authority {
        path: PathBuf,
        #[source]
        source: reqwest::Error,
    },
    /// The client cannot be made.
    #[error("make a client of the API server")]
    Client(#[source] reqwest::Error),
    /// No answer, or an end in the middle of one.
    #[error("{attempted} {resource}")]
    Request {
        attempted: &'static str,
        resource: &'static str,
        #[source]
        source: reqwest::Error,
    },
    /// No answer in time.
    #[error("{attempted} {resource}: no answer within {limit:?}")]
    Late {
        attempted: &'static str,
        resource: &'static str,
        limit: Duration,
    },
    /// It refused.
    #[error("{attempted} {resource}: the API server answers {status}, {body:?}{hint}")]
    Refused {
        attempted: &'static str,
        resource: &'static str,
        status: u16,
        body: String,
        hint: &'static str,
    },
    /// More than there can be.
    #[error("{attempted} {resource}: more than {limit} bytes")]
    TooLarge {
        attempted: &'static str,
        resource: &'static str,
        limit: usize,
    },
    /// Not what is documented.
    #[error("{attempted} {resource}: understand the answer")]
    Json {
        attempted: &'static str,
        resource: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// There is no such node.
    #[error(
        "the cluster has no node called {node:?}; set NODE_NAME in the pod from spec.nodeName, or \
         `node` in [watch.kubernetes]"
    )]
    NoNode { node: String },
}

/// What is listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The own node.
    Node,
    /// The pods on it.
    Pod,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Pod => "pods",
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Node => "metadata.name",
            Self::Pod => "spec.nodeName",
        }
    }

    fn parse(self, object: &str) -> Result<Item, serde_json::Error> {
        Ok(match self {
            Self::Node => Item::Node(serde_json::from_str(object)?),
            Self::Pod => Item::Pod(serde_json::from_str(object)?),
        })
    }
}

/// An object.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
}

impl Item {
    fn metadata(&self) -> &Metadata {
        match self {
            Self::Node(node) => &node.metadata,
            Self::Pod(pod) => &pod.metadata,
        }
    }

    /// What tells it from others of the same name, at other times.
    pub(super) fn uid(&self) -> &str {
        &self.metadata().uid
    }
}

/// A list.
#[derive(Debug)]
pub(super) struct List {
    /// From where to watch.
    pub(super) version: String,
    /// The objects.
    pub(super) items: Vec<Item>,
    /// The server's clock.
    pub(super) clock: ServerClock,
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Step {
    /// An object is new or different.
    Changed(Item, ServerClock),
    /// An object is gone.
    Deleted(Item),
    /// Nothing; only the version is newer.
    Bookmark,
    /// The time is over; the next watch begins where this one ended.
    Ended,
    /// The server does not know any more what happened since: it must be listed anew.
    Forgotten,
}

/// The API server.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    base: Url,
    token: PathBuf,
}

impl Api {
    /// The server at `endpoint`, with the credentials in a folder. Plain `http` only to this machine
    /// itself (`kubectl proxy`), which needs no token.
    pub(super) fn open(endpoint: &str, credentials: &Path) -> Result<Self, ApiError> {
        let wrong = |reason: String| ApiError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let base = Url::parse(endpoint).map_err(|error| wrong(error.to_string()))?;
        let host = base.host_str().unwrap_or_default();
        let is_local = matches!(host, "127.0.0.1" | "[::1]" | "localhost");
        let builder = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE);
        let builder = match base.scheme() {
            "http" if is_local => builder,
            "https" => {
                let path = credentials.join("ca.crt");
                let pem = read(&path)?;
                let authority = Certificate::from_pem_bundle(&pem);
                let authority = authority.map_err(|source| ApiError::Authority { path, source })?;
                builder.tls_certs_only(authority)
            }
            _ => {
                return Err(wrong(
                    "https is needed, but to this machine itself".to_owned(),
                ));
            }
        };
        Ok(Self {
            client: builder.build().map_err(ApiError::Client)?,
            base,
            token: credentials.join("token"),
        })
    }

    /// Lists what concerns `node`.
    pub(super) async fn list(&self, kind: Kind, node: &str) -> Result<List, ApiError> {
        const ATTEMPTED: &str = "list";
        let call = Call::new(ATTEMPTED, kind);
        let late = call.late(LIST_LIMIT);
        let read = async {
            let mut answer = self.get(&call, node, &[]).await?;
            let clock = server_clock(&answer);
            let mut body = Vec::new();
            while let Some(part) = answer.chunk().await.map_err(|error| call.failed(error))? {
                if body.len() + part.len() > LIST_BYTES_MAX {
                    return Err(call.too_large(LIST_BYTES_MAX));
                }
                body.extend_from_slice(&part);
            }
            Ok((String::from_utf8_lossy(&body).into_owned(), clock))
        };
        let (body, clock) = tokio::time::timeout(LIST_LIMIT, read)
            .await
            .map_err(|_| late)??;
        let (version, items) = match kind {
            Kind::Node => parse_list(&body, Item::Node),
            Kind::Pod => parse_list(&body, Item::Pod),
        }
        .map_err(|source| call.json(source))?;
        Ok(List {
            version,
            items,
            clock,
        })
    }

    /// Watches what concerns `node`, from a version on.
    pub(super) async fn watch(
        &self,
        kind: Kind,
        node: &str,
        version: &str,
    ) -> Result<Watch, ApiError> {
        let call = Call::new("watch", kind);
        let seconds = WATCH_SECONDS.to_string();
        let query = [
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &seconds),
            ("resourceVersion", version),
        ];
        let limit = Duration::from_secs(WATCH_SECONDS) + WATCH_SLACK;
        let ends_at = Instant::now() + limit;
        let answer = tokio::time::timeout(LIST_LIMIT, self.get(&call, node, &query)).await;
        let answer = answer.map_err(|_| call.late(LIST_LIMIT))?;
        let answer = match answer {
            Ok(answer) => Some(answer),
            Err(ApiError::Refused { status: 410, .. }) => None,
            Err(error) => return Err(error),
        };
        let clock = answer.as_ref().map_or_else(own_clock, server_clock);
        Ok(Watch {
            call,
            answer,
            clock,
            ends_at,
            limit,
            unread: Vec::new(),
            version: None,
        })
    }

    async fn get(
        &self,
        call: &Call,
        node: &str,
        more: &[(&str, &str)],
    ) -> Result<Response, ApiError> {
        let mut url = self.base.clone();
        url.set_path(&format!("/api/v1/{}", call.kind.name()));
        url.query_pairs_mut()
            .append_pair("fieldSelector", &format!("{}={node}", call.kind.field()))
            .extend_pairs(more);
        let mut request = self.client.get(url).header("Accept", "application/json");
        match read(&self.token) {
            Ok(token) => request = request.bearer_auth(String::from_utf8_lossy(&token).trim()),
            Err(_) if self.base.scheme() == "http" => {}
            Err(error) => return Err(error),
        }
        let mut answer = request.send().await.map_err(|error| call.failed(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let part = answer.chunk().await.ok().flatten().unwrap_or_default();
        let body = String::from_utf8_lossy(&part);
        Err(ApiError::Refused {
            attempted: call.attempted,
            resource: call.kind.name(),
            status: answer.status().as_u16(),
            body: body.chars().take(QUOTE_CHARS).collect(),
            hint: match answer.status().as_u16() {
                401 => "; the token is not accepted: is this the right cluster?",
                403 => {
                    "; the service account needs list and watch of nodes and pods (deploy/kubernetes has a role)"
                }
                _ => "",
            },
        })
    }
}

/// A watch.
#[derive(Debug)]
pub(super) struct Watch {
    call: Call,
    /// `None`: the server has forgotten.
    answer: Option<Response>,
    clock: ServerClock,
    ends_at: Instant,
    limit: Duration,
    unread: Vec<u8>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bookmark {
    metadata: Metadata,
}

impl Watch {
    /// The latest version that was told.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Waits for what happens next.
    pub(super) async fn next(&mut self) -> Result<Step, ApiError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if line.trim().is_empty() {
                    continue;
                }
                return self.step(&line);
            }
            let Some(answer) = &mut self.answer else {
                return Ok(Step::Forgotten);
            };
            let late = self.call.late(self.limit);
            let part = tokio::time::timeout_at(self.ends_at.into(), answer.chunk()).await;
            let part = part.map_err(|_| late)?;
            let Some(part) = part.map_err(|error| self.call.failed(error))? else {
                return Ok(Step::Ended);
            };
            if self.unread.len() + part.len() > LINE_BYTES_MAX {
                return Err(self.call.too_large(LINE_BYTES_MAX));
            }
            self.unread.extend_from_slice(&part);
        }
    }

    fn step(&mut self, line: &str) -> Result<Step, ApiError> {
        let event: Event<'_> = self.parse(line)?;
        let object = event.object.get();
        let item = || {
            self.call
                .kind
                .parse(object)
                .map_err(|source| self.call.json(source))
        };
        let step = match event.kind {
            "ADDED" | "MODIFIED" => Step::Changed(item()?, self.clock),
            "DELETED" => Step::Deleted(item()?),
            "BOOKMARK" => {
                let bookmark: Bookmark = self.parse(object)?;
                self.version = Some(bookmark.metadata.resource_version);
                return Ok(Step::Bookmark);
            }
            "ERROR" => {
                let refusal: Refusal = self.parse(object)?;
                if refusal.code == 410 {
                    return Ok(Step::Forgotten);
                }
                return Err(ApiError::Refused {
                    attempted: self.call.attempted,
                    resource: self.call.kind.name(),
                    status: u16::try_from(refusal.code).unwrap_or(0),
                    body: object.chars().take(QUOTE_CHARS).collect(),
                    hint: "",
                });
            }
            // Something that is newer than this program.
            _ => return Ok(Step::Bookmark),
        };
        if let Step::Changed(item, _) | Step::Deleted(item) = &step {
            self.version = Some(item.metadata().resource_version.clone());
        }
        Ok(step)
    }

    fn parse<'a, T: Deserialize<'a>>(&self, text: &'a str) -> Result<T, ApiError> {
        serde_json::from_str(text).map_err(|source| self.call.json(source))
    }
}

/// What is asked, for errors.
#[derive(Clone, Copy, Debug)]
struct Call {
    attempted: &'static str,
    kind: Kind,
}

impl Call {
    const fn new(attempted: &'static str, kind: Kind) -> Self {
        Self { attempted, kind }
    }

    fn failed(self, source: reqwest::Error) -> ApiError {
        ApiError::Request {
            attempted: self.attempted,
            resource: self.kind.name(),
            source,
        }
    }

    const fn late(self, limit: Duration) -> ApiError {
        ApiError::Late {
            attempted: self.attempted,
            resource: self.kind.name(),
            limit,
        }
    }

    const fn too_large(self, limit: usize) -> ApiError {
        ApiError::TooLarge {
            attempted: self.attempted,
            resource: self.kind.name(),
            limit,
        }
    }

    const fn json(self, source: serde_json::Error) -> ApiError {
        ApiError::Json {
            attempted: self.attempted,
            resource: self.kind.name(),
            source,
        }
    }
}

fn parse_list<T: DeserializeOwned>(
    body: &str,
    item: fn(T) -> Item,
) -> Result<(String, Vec<Item>), serde_json::Error> {
    #[derive(Deserialize)]
    struct Objects<T> {
        metadata: Metadata,
        #[serde(default = "Vec::new")]
        items: Vec<T>,
    }
    let list: Objects<T> = serde_json::from_str(body)?;
    let items = list.items.into_iter().map(item).collect();
    Ok((list.metadata.resource_version, items))
}

fn read(path: &Path) -> Result<Vec<u8>, ApiError> {
    use std::io::Read as _;
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content))
        .map_err(|source| ApiError::Credential {
            path: path.to_owned(),
            source,
        })?;
    Ok(content)
}

fn own_clock() -> ServerClock {
    ServerClock {
        wall: SystemTime::now(),
        at: Instant::now(),
    }
}

fn server_clock(answer: &Response) -> ServerClock {
    let date = answer.headers().get("date");
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let own = own_clock();
    ServerClock {
        wall: date.unwrap_or(own.wall),
        ..own
    }
}
