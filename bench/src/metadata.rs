//! Google's metadata server, as far as preemption goes, for demonstrations and tests.
//!
//! Behaves as documented in "About VM metadata" and "Query VM metadata" (Google Cloud):
//!
//! - Requests without `Metadata-Flavor: Google`, and those with `X-Forwarded-For`, are refused (403).
//! - `wait_for_change=true` answers at the next change; with `last_etag=E` at once if the value has
//!   another etag than `E`; with `timeout_sec=N` after `N` seconds with the value as it is.
//! - Every answer carries `Metadata-Flavor: Google` and the value's `ETag`.
//! - While it is "maintained" everything is answered with 503, also requests that wait.
//!
//! What the real one does not have are the controls: `PUT /control/NAME` with the new value as body,
//! where `NAME` is `preempted`, `maintenance-event`, or `unavailable` (`true` or `false`).

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch};

/// Path below which the values are.
const ROOT: &str = "/computeMetadata/v1/instance/";

/// Longest time that a request waits when it names none.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Largest body of a control, in bytes.
const CONTROL_BYTES_MAX: usize = 4096;

type Answer = Response<Full<Bytes>>;

/// A value and how often it has changed.
#[derive(Clone, Debug)]
struct Value {
    text: String,
    changes: u64,
}

impl Value {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            changes: 0,
        }
    }

    /// Sixteen hexadecimal digits, as the real ones look; never that of another text or time.
    fn etag(&self) -> String {
        let digest = blake3::hash(format!("{} {}", self.changes, self.text).as_bytes());
        digest.to_hex()[..16].to_owned()
    }
}

/// What the server says.
#[derive(Clone, Debug)]
struct State {
    values: BTreeMap<&'static str, Value>,
    unavailable: bool,
}

impl Default for State {
    fn default() -> Self {
        let values = [
            ("preempted", Value::new("FALSE")),
            ("maintenance-event", Value::new("NONE")),
            ("scheduling/preemptible", Value::new("TRUE")),
        ];
        Self {
            values: values.into(),
            unavailable: false,
        }
    }
}

/// The emulator.
#[derive(Debug)]
pub(crate) struct Emulator {
    listener: TcpListener,
    state: watch::Sender<State>,
}

impl Emulator {
    /// Listens on `address`.
    pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            state: watch::Sender::default(),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever.
    pub(crate) async fn serve(self) -> std::io::Result<Infallible> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let state = self.state.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(state.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away in the middle is its own business.
                drop(connection.await);
            });
        }
    }
}

async fn answer(
    state: watch::Sender<State>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    if let Some(name) = head.uri.path().strip_prefix("/control/") {
        let body = Limited::new(body, CONTROL_BYTES_MAX).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
        return Ok(match (head.method, text) {
            (Method::PUT | Method::POST, Ok(text)) => control(&state, name, &text),
            _ => plain(StatusCode::BAD_REQUEST, "PUT the new value"),
        });
    }
    if !is_allowed(&head.headers) {
        return Ok(plain(
            StatusCode::FORBIDDEN,
            "Missing Metadata-Flavor:Google header",
        ));
    }
    if head.method != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "GET only"));
    }
    let Some(name) = head.uri.path().strip_prefix(ROOT).map(str::to_owned) else {
        return Ok(plain(StatusCode::NOT_FOUND, "not found"));
    };
    let wait = Wait::parse(head.uri.query().unwrap_or(""));
    Ok(wait.answer(state.subscribe(), &name).await)
}

fn is_allowed(headers: &HeaderMap) -> bool {
    let flavor = headers
        .get("metadata-flavor")
        .is_some_and(|value| value == "Google");
    flavor && !headers.contains_key("x-forwarded-for")
}

fn control(state: &watch::Sender<State>, name: &str, text: &str) -> Answer {
    let mut known = true;
    state.send_modify(|state| match (name, text) {
        ("unavailable", "true" | "false") => state.unavailable = text == "true",
        _ => match state.values.get_mut(name) {
            Some(value) if value.text != text => {
                text.clone_into(&mut value.text);
                value.changes += 1;
            }
            Some(_) => {}
            None => known = false,
        },
    });
    if known {
        plain(StatusCode::OK, "")
    } else {
        plain(StatusCode::NOT_FOUND, "no such control")
    }
}

/// What a request waits for.
#[derive(Debug, Default)]
struct Wait {
    for_change: bool,
    last_etag: Option<String>,
    timeout: Option<Duration>,
}

impl Wait {
    fn parse(query: &str) -> Self {
        let mut wait = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "wait_for_change" => wait.for_change = value.eq_ignore_ascii_case("true"),
                "last_etag" => wait.last_etag = Some(value.to_owned()),
                "timeout_sec" => wait.timeout = value.parse().ok().map(Duration::from_secs),
                _ => {}
            }
        }
        wait
    }

    async fn answer(&self, mut state: watch::Receiver<State>, name: &str) -> Answer {
        let current = state.borrow_and_update().values.get(name).map(Value::etag);
        let Some(current) = current else {
            return plain(StatusCode::NOT_FOUND, "not found");
        };
        if self.for_change {
            let known = self.last_etag.as_ref().unwrap_or(&current);
            let changed = state.wait_for(|state| {
                state.unavailable
                    || state
                        .values
                        .get(name)
                        .is_some_and(|value| value.etag() != *known)
            });
            let limit = self.timeout.unwrap_or(WAIT_MAX).min(WAIT_MAX);
            // After the time, the value as it is.
            drop(tokio::time::timeout(limit, changed).await);
        }
        let state = state.borrow();
        if state.unavailable {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
        }
        match state.values.get(name) {
            Some(value) => plain_with_etag(&value.text, &value.etag()),
            None => plain(StatusCode::NOT_FOUND, "not found"),
        }
    }
}

fn plain_with_etag(text: &str, etag: &str) -> Answer {
    let mut answer = plain(StatusCode::OK, text);
    if let Ok(etag) = etag.parse() {
        answer.headers_mut().insert("etag", etag);
    }
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text.to_owned())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert("metadata-flavor", http::HeaderValue::from_static("Google"));
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/text"),
    );
    headers.insert(
        "server",
        http::HeaderValue::from_static("Metadata Server for VM"),
    );
    answer
}

#[cfg(test)]
mod tests;
