//! A door to the real S3 server that fails by chance: as a busy server, a bad network and lost answers.
//!
//! It understands requests, unlike [`super::Proxy`]: an answer can be lost after the server has done what
//! was asked. Chance is seeded; which request meets which fault depends on the order in which they come.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::net::sockopt::set_socket_linger;
use tokio::net::{TcpListener, TcpStream};

/// Rates at which slow bodies come, in bytes per second.
const SLOW_RATES: std::ops::Range<u64> = 4 << 20..32 << 20;

const BUSY: &str = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code>\
                    <Message>Please reduce your request rate.</Message></Error>";

/// Chances of each request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Odds {
    /// The server says 503.
    pub busy: f64,
    /// The server says 429.
    pub throttled: f64,
    /// The connection is reset: before the server hears of the request, or while it answers.
    pub reset: f64,
    /// The bodies come slowly.
    pub slow: f64,
    /// A write is done, and its answer is lost.
    pub lost: f64,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Fine,
    Refused(StatusCode),
    Unheard,
    AnswerLost,
    Slow(u64),
}

/// How often each fault has happened.
#[derive(Debug, Default)]
struct Count {
    refused: AtomicU64,
    unheard: AtomicU64,
    answers_lost: AtomicU64,
    slow: AtomicU64,
    fine: AtomicU64,
    /// When the server had taken a head, and which.
    heads: Mutex<Vec<(String, Instant)>>,
}

/// The door.
#[derive(Debug)]
pub(crate) struct Unreliable {
    address: SocketAddr,
    count: Arc<Count>,
    _runtime: tokio::runtime::Runtime,
}

type Origin = Client<HttpConnector, Full<Bytes>>;

/// What all connections share.
struct Shared {
    server: String,
    odds: Odds,
    chance: Mutex<StdRng>,
    count: Arc<Count>,
    origin: Origin,
}

impl Unreliable {
    /// A door at `address` to `server` (HOST:PORT).
    pub(crate) fn start(address: SocketAddr, server: &str, odds: Odds, seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(Count::default());
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            odds,
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            count: Arc::clone(&count),
            origin: Client::builder(TokioExecutor::new()).build_http(),
        });
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            count,
            _runtime: runtime,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often each fault has happened, for people.
    pub(crate) fn told(&self) -> String {
        let read = |one: &AtomicU64| one.load(Ordering::Relaxed);
        let Count {
            refused,
            unheard,
            answers_lost,
            slow,
            fine,
            ..
        } = &*self.count;
        let (refused, unheard, slow) = (read(refused), read(unheard), read(slow));
        let (lost, fine) = (read(answers_lost), read(fine));
        format!(
            "{refused} refused, {unheard} unheard, {lost} answers lost, {slow} slow, {fine} fine"
        )
    }

    /// When the server took a head of this workload for the last time.
    pub(crate) fn last_head(&self, workload: &str) -> Option<Instant> {
        let end = format!("/workloads/{workload}/head");
        let heads = self
            .count
            .heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut of_it = heads.iter().rev().filter(|(path, _)| path.ends_with(&end));
        of_it.next().map(|(_, at)| *at)
    }

    /// Answers that were lost, and requests that were not heard.
    pub(crate) fn resets(&self) -> (u64, u64) {
        let read = |one: &AtomicU64| one.load(Ordering::Relaxed);
        (read(&self.count.answers_lost), read(&self.count.unheard))
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    drop(stream.set_nodelay(true));
    // The socket once more, to have it reset instead of closed.
    let Ok(stream) = stream.into_std() else {
        return;
    };
    let again = stream.try_clone().map(Arc::new);
    let (Ok(again), Ok(stream)) = (again, TcpStream::from_std(stream)) else {
        return;
    };
    let service = service_fn(move |request| {
        let (shared, again) = (Arc::clone(&shared), Arc::clone(&again));
        async move {
            let answered = shared.answer(request).await;
            if answered.is_err() {
                let _gone_already = set_socket_linger(&*again, Some(Duration::ZERO));
            }
            answered
        }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Its end is what was wanted, or the client's business.
    drop(connection.await);
}

impl Shared {
    fn fate(&self, method: &Method) -> Fate {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut happens = |odds: f64| odds > 0.0 && chance.random_bool(odds);
        if happens(self.odds.busy) {
            Fate::Refused(StatusCode::SERVICE_UNAVAILABLE)
        } else if happens(self.odds.throttled) {
            Fate::Refused(StatusCode::TOO_MANY_REQUESTS)
        } else if happens(self.odds.reset) {
            if happens(0.5) {
                Fate::Unheard
            } else {
                Fate::AnswerLost
            }
        } else if happens(self.odds.lost) && *method == Method::PUT {
            Fate::AnswerLost
        } else if happens(self.odds.slow) {
            Fate::Slow(chance.random_range(SLOW_RATES))
        } else {
            Fate::Fine
        }
    }

    /// An error resets the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let fate = self.fate(request.method());
        let counter = match fate {
            Fate::Fine => &self.count.fine,
            Fate::Refused(_) => &self.count.refused,
            Fate::Unheard => &self.count.unheard,
            Fate::AnswerLost => &self.count.answers_lost,
            Fate::Slow(_) => &self.count.slow,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let (head, body) = request.into_parts();
        let rate = match fate {
            Fate::Slow(rate) => Some(rate),
            _ => None,
        };
        if fate == Fate::Unheard {
            return Err(io::Error::other("played"));
        }
        let body = read(body, rate).await?;
        if let Fate::Refused(status) = fate {
            let mut answer = Response::new(Full::new(Bytes::from_static(BUSY.as_bytes())));
            *answer.status_mut() = status;
            return Ok(answer);
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let head_of = head_written(&head.method, path);
        let uri = format!("http://{}{path}", self.server);
        let uri: Uri = uri.parse().map_err(io::Error::other)?;
        let mut forwarded = Request::new(Full::new(body));
        *forwarded.method_mut() = head.method;
        *forwarded.uri_mut() = uri;
        // With the Host that was signed.
        *forwarded.headers_mut() = head.headers;
        let answer = self.origin.request(forwarded).await;
        let (head, body) = answer.map_err(io::Error::other)?.into_parts();
        if let Some(path) = head_of.filter(|_| head.status.is_success()) {
            let heads = self.count.heads.lock();
            heads
                .unwrap_or_else(PoisonError::into_inner)
                .push((path, Instant::now()));
        }
        let body = read(body, rate).await?;
        if fate == Fate::AnswerLost {
            return Err(io::Error::other("played"));
        }
        Ok(Response::from_parts(head, Full::new(body)))
    }
}

/// The path of a head that is to be written.
fn head_written(method: &Method, path: &str) -> Option<String> {
    let path = path.split('?').next()?;
    (*method == Method::PUT && path.ends_with("/head")).then(|| path.to_owned())
}

/// All of a body; not faster than `rate`.
async fn read(mut body: Incoming, rate: Option<u64>) -> io::Result<Bytes> {
    let began = tokio::time::Instant::now();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        if let Ok(data) = frame.into_data() {
            all.extend_from_slice(&data);
        }
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(all.len() as f64 / rate as f64);
            tokio::time::sleep_until(began + due).await;
        }
    }
    Ok(all.freeze())
}
