//! A stand-in for Google Cloud Storage's XML API, as far as it is documented and used here.
//!
//! - Each write gives the object a new generation, larger than all before (`x-goog-generation`).
//! - `x-goog-if-generation-match: N` on a write: 412 `PreconditionFailed` unless the live generation
//!   is N; 0 stands for "no live object". Anything but a number: 400.
//! - Requests without an OAuth token get 401.
//! - Ranges: 206 with `Content-Range`, cut at the object's end; 416 if they begin beyond it.
//! - Lists: version 2, `start-after` exclusive, `max-keys`, keys in byte order.
//! - A missing bucket is 404 `NoSuchBucket`, a missing object 404 `NoSuchKey`; HEAD has no body.
//!
//! Source: the XML API's reference and "Request preconditions", docs.cloud.google.com/storage.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

pub(crate) const BUCKET: &str = "boats";
pub(crate) const TOKEN: &str = "a-token";

type Answer = Response<Full<Bytes>>;

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, (Bytes, u64)>,
    writes: u64,
    /// Methods and conditions of all requests, for tests that look at what was sent.
    seen: Vec<(Method, Option<String>)>,
}

/// A running stand-in; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) endpoint: String,
    bucket: Arc<Mutex<Bucket>>,
    _server: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!(
            "http://{}",
            listener.local_addr().expect("the port is known")
        );
        let bucket = Arc::new(Mutex::new(Bucket::default()));
        let shared = Arc::clone(&bucket);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let bucket = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = hyper::service::service_fn(move |request| {
                        let bucket = Arc::clone(&bucket);
                        async move { Ok::<_, Infallible>(handle(&bucket, request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is no failure of the test.
                    drop(http.serve_connection(TokioIo::new(socket), answer).await);
                });
            }
        });
        Self {
            endpoint,
            bucket,
            _server: server,
        }
    }

    /// Methods and generation conditions of the requests so far.
    pub(crate) fn seen(&self) -> Vec<(Method, Option<String>)> {
        self.bucket
            .lock()
            .expect("no test panics in here")
            .seen
            .clone()
    }
}

fn refuse(status: StatusCode, code: &str) -> Answer {
    let body = format!(
        "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code>\
         <Message>As the stand-in says.</Message></Error>"
    );
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/xml");
    answer.body(Full::from(body)).expect("a valid answer")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `%41` and the like as what they stand for.
fn decode(text: &str) -> String {
    url::form_urlencoded::parse(text.replace('+', "%2B").as_bytes())
        .next()
        .map_or_else(String::new, |(name, _)| name.into_owned())
}

async fn handle(bucket: &Mutex<Bucket>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    // The whole body first: what broke off is no object.
    let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
        return refuse(StatusCode::BAD_REQUEST, "IncompleteBody");
    };
    if header(&parts.headers, "authorization") != Some(&format!("Bearer {TOKEN}")) {
        return refuse(StatusCode::UNAUTHORIZED, "AuthenticationRequired");
    }
    let path = parts.uri.path().trim_start_matches('/');
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    if decode(name) != BUCKET {
        return refuse(StatusCode::NOT_FOUND, "NoSuchBucket");
    }
    let condition = header(&parts.headers, "x-goog-if-generation-match");
    let mut bucket = bucket.lock().expect("no test panics in here");
    bucket
        .seen
        .push((parts.method.clone(), condition.map(str::to_owned)));
    match (parts.method.clone(), decode(key)) {
        (Method::GET, key) if key.is_empty() => list(&bucket, parts.uri.query().unwrap_or("")),
        (Method::PUT, key) => put(&mut bucket, key, body, condition),
        (Method::DELETE, key) => match bucket.objects.remove(&key) {
            Some(_) => empty(StatusCode::NO_CONTENT),
            None => refuse(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        (method, key) if method == Method::GET || method == Method::HEAD => {
            match bucket.objects.get(&key) {
                Some((body, generation)) => {
                    let range = header(&parts.headers, "range");
                    read(body, *generation, range, method == Method::HEAD)
                }
                None => refuse(StatusCode::NOT_FOUND, "NoSuchKey"),
            }
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

fn empty(status: StatusCode) -> Answer {
    Response::builder()
        .status(status)
        .body(Full::default())
        .expect("a valid answer")
}

fn put(bucket: &mut Bucket, key: String, body: Bytes, condition: Option<&str>) -> Answer {
    let live = bucket
        .objects
        .get(&key)
        .map_or(0, |(_, generation)| *generation);
    match condition.map(str::parse::<u64>) {
        None => {}
        Some(Ok(expected)) if expected == live => {}
        Some(Ok(_)) => return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
        Some(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "InvalidArgument"),
    }
    bucket.writes += 1;
    let generation = 1_700_000_000_000_000 + bucket.writes;
    bucket.objects.insert(key, (body, generation));
    let answer = Response::builder()
        .header("etag", format!("\"{generation:x}\""))
        .header("x-goog-generation", generation)
        .header("x-goog-metageneration", 1);
    answer.body(Full::default()).expect("a valid answer")
}

fn read(body: &Bytes, generation: u64, range: Option<&str>, head: bool) -> Answer {
    let mut answer = Response::builder()
        .header("etag", format!("\"{generation:x}\""))
        .header("x-goog-generation", generation)
        .header("last-modified", "Wed, 25 Nov 2026 02:30:00 GMT");
    let mut content = body.clone();
    if let Some(range) = range {
        let (start, end) = range
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
            .expect("bytes=");
        let (start, end): (usize, usize) = (
            start.parse().expect("a number"),
            end.parse().expect("a number"),
        );
        if start >= body.len() {
            return refuse(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let end = end.saturating_add(1).min(body.len());
        content = body.slice(start..end);
        answer = answer.status(StatusCode::PARTIAL_CONTENT).header(
            "content-range",
            format!("bytes {start}-{}/{}", end - 1, body.len()),
        );
    }
    answer = answer.header("content-length", content.len());
    let content = if head { Bytes::new() } else { content };
    answer.body(Full::new(content)).expect("a valid answer")
}

fn list(bucket: &Bucket, query: &str) -> Answer {
    let parameter = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
    };
    assert_eq!(parameter("list-type").as_deref(), Some("2"));
    let prefix = parameter("prefix").unwrap_or_default();
    let after = parameter("start-after").unwrap_or_default();
    let max: usize = parameter("max-keys").map_or(1000, |max| max.parse().expect("a number"));
    let mut keys = bucket
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && key.as_str() > after.as_str());
    let modified = humantime::format_rfc3339_millis(SystemTime::now());
    let contents: String = keys
        .by_ref()
        .take(max)
        .map(|(key, (body, generation))| {
            format!(
                "<Contents><Key>{key}</Key><Generation>{generation}</Generation>\
                 <LastModified>{modified}</LastModified><ETag>\"{generation:x}\"</ETag>\
                 <Size>{}</Size></Contents>",
                body.len()
            )
        })
        .collect();
    let more = keys.next().is_some();
    let token = if more {
        "<NextContinuationToken>more</NextContinuationToken>"
    } else {
        ""
    };
    let body = format!(
        "<?xml version='1.0' encoding='UTF-8'?>\
         <ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{BUCKET}</Name>\
         <Prefix>{prefix}</Prefix><IsTruncated>{more}</IsTruncated>{token}{contents}\
         </ListBucketResult>"
    );
    Response::new(Full::from(body))
}
