//! The server: which cloud a path belongs to, and the controls.

use std::{convert::Infallible, net::SocketAddr, str::FromStr, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{aws, azure, gce, state::Control};

/// Largest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 4096;

pub(crate) type Answer = Response<Full<Bytes>>;

/// A request whose body was read.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The value of a parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Whose server is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Google's.
    Gce,
    /// EC2's.
    Aws,
    /// Azure's.
    Azure,
    /// All three: their paths do not overlap.
    #[default]
    All,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "gce" => Ok(Self::Gce),
            "aws" => Ok(Self::Aws),
            "azure" => Ok(Self::Azure),
            "all" => Ok(Self::All),
            _ => Err("write gce, aws, azure or all".to_owned()),
        }
    }
}

impl Wanted {
    fn plays(self, one: Self) -> bool {
        self == Self::All || self == one
    }
}

/// The emulator.
#[derive(Debug)]
pub struct Emulator {
    listener: TcpListener,
    control: Control,
    wanted: Wanted,
}

impl Emulator {
    /// Listens on `address`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr, wanted: Wanted) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            control: Control::default(),
            wanted,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What the real ones do not have.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When no connection can be accepted any more.
    pub async fn serve(self) -> std::io::Result<Infallible> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            let (control, wanted) = (self.control.clone(), self.wanted);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let control = control.clone();
                    async move { Ok::<_, Infallible>(answer(control, wanted, request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away in the middle is its own business.
                drop(connection.await);
            });
        }
    }
}

async fn answer(control: Control, wanted: Wanted, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "");
    };
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or("").to_owned(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    };
    if let Some(name) = asked.path.strip_prefix("/control/") {
        return controlled(&control, name, &asked);
    }
    let path = asked.path.as_str();
    if path.starts_with("/latest/") && wanted.plays(Wanted::Aws) {
        aws::answer(&control, &asked)
    } else if path.starts_with("/metadata/") && wanted.plays(Wanted::Azure) {
        azure::answer(&control, &asked).await
    } else if wanted.plays(Wanted::Gce) {
        gce::answer(&control, &asked).await
    } else {
        plain(StatusCode::NOT_FOUND, "not found")
    }
}

fn controlled(control: &Control, name: &str, asked: &Asked) -> Answer {
    if (&asked.method, name) == (&Method::GET, "azure/approved") {
        return plain(StatusCode::OK, &control.approved().join("\n"));
    }
    if !matches!(asked.method, Method::PUT | Method::POST) {
        return plain(StatusCode::BAD_REQUEST, "PUT the new value");
    }
    match control.by_name(name, asked.body.trim()) {
        Some(Ok(text)) => plain(StatusCode::OK, &text),
        Some(Err(problem)) => plain(StatusCode::BAD_REQUEST, problem),
        None => plain(StatusCode::NOT_FOUND, "no such control"),
    }
}

pub(crate) fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text.to_owned())));
    *answer.status_mut() = status;
    with(&mut answer, "content-type", "text/plain");
    with(
        &mut answer,
        "date",
        &httpdate::fmt_http_date(SystemTime::now()),
    );
    answer
}

pub(crate) fn with(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
