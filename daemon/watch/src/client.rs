//! A client for metadata servers.
//!
//! - No proxy: the address is this machine's own business, and a proxy would answer for another one.
//! - No redirect is followed: an answer that is one is an [`ClientError::Answer`].
//! - A body is read up to [`BODY_BYTES_MAX`]; more is an error.
//! - Each request has a deadline, in which connecting and reading are included.
//!
//! Connections are kept, so that at the worst moment nothing has to be set up. Plain `http` only: that is
//! what metadata servers speak.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::feed::chain;

/// Largest body that is read, in bytes. Azure's lists of events are the largest ones: some hundred bytes
/// for each event.
pub const BODY_BYTES_MAX: usize = 256 << 10;

/// Longest time for setting up a connection to a server that is one hop away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of a body is quoted in an error, in characters.
const QUOTE_CHARS: usize = 120;

/// Why a server was not understood.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error(
        "metadata endpoint {endpoint:?} is not an address like http://169.254.169.254: {reason}"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered.
    #[error("ask {uri}: {reason}")]
    Request {
        /// What was asked.
        uri: String,
        /// What went wrong.
        reason: String,
    },
    /// No answer in time.
    #[error("ask {uri}: no answer within {limit:?}")]
    Late {
        /// What was asked.
        uri: String,
        /// How long it was waited.
        limit: Duration,
    },
    /// Another answer than documented.
    #[error("ask {uri}: the answer {status} {body:?} is not one that is documented")]
    Answer {
        /// What was asked.
        uri: String,
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked.
    pub uri: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The server's clock, as far as it tells, and not late: a date is up to a second old. Else this
    /// machine's. What a server says about a point in
    /// time is measured by the same clock, so that a wrong clock here does no harm.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.header("date")
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .and_then(|date| date.checked_add(Duration::from_secs(1)))
            .unwrap_or_else(SystemTime::now)
    }

    /// The answer as an error: it is not one that is documented.
    #[must_use]
    pub fn unexpected(&self) -> ClientError {
        ClientError::Answer {
            uri: self.uri.clone(),
            status: self.status.as_u16(),
            body: self.body.chars().take(QUOTE_CHARS).collect(),
        }
    }
}

/// One server. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    client: HyperClient<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Client {
    /// A client of the server at `endpoint`, for example `http://169.254.169.254`.
    ///
    /// # Errors
    /// When it is not an `http` address.
    pub fn new(endpoint: &str) -> Result<Self, ClientError> {
        let base = endpoint.trim_end_matches('/').to_owned();
        let wrong = |reason: String| ClientError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let uri: Uri = base
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(wrong("metadata servers speak plain http".to_owned()));
        }
        if uri.query().is_some() {
            return Err(wrong("it has a query".to_owned()));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, base })
    }

    /// Where the server is.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.base
    }

    /// Gets `path`.
    ///
    /// # Errors
    /// When there is no answer within `limit`, or none that can be read.
    pub async fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        self.send(Method::GET, path, headers, String::new(), limit)
            .await
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When there is no answer within `limit`, or none that can be read.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let uri = format!("{}{path}", self.base);
        let failed = |reason: String| ClientError::Request {
            uri: uri.clone(),
            reason,
        };
        let mut request = Request::builder().method(method).uri(&uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let answer = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| failed(chain(&error)))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
            Ok(Answer {
                uri: uri.clone(),
                status: parts.status,
                headers: parts.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Late { uri, limit }),
        }
    }
}
