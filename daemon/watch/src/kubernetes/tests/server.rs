//! The part of an API server that is needed: lists and watches of nodes and pods with field selectors.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    path::Path,
    process::Command,
    sync::{Arc, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use super::*;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An authority, a certificate of 127.0.0.1, and a token, in a folder as Kubernetes makes it.
pub(super) struct Tls(tempfile::TempDir);

impl Tls {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, authority) = (folder.path().join("key"), folder.path().join("ca.crt"));
        // Its own authority: what counts is whom the client trusts.
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=test"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&authority)
            .output()
            .expect("openssl is installed by deploy/setup.sh --tests");
        assert!(made.status.success(), "{made:?}");
        std::fs::write(folder.path().join("token"), "secret\n").unwrap();
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        self.0.path()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(self.folder().join("ca.crt")).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(self.folder().join("key")).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// By resource and uid.
    objects: BTreeMap<(String, String), Value>,
    /// What happened: version, resource, kind, object.
    events: Vec<(u64, String, &'static str, Value)>,
    /// Versions before this one are forgotten.
    since: u64,
    is_away: bool,
    token: String,
    nonsense: Option<String>,
    /// Verbs and resources, as an authorizer would see them.
    used: BTreeSet<(String, String)>,
    lists: usize,
    watches: usize,
    asked: usize,
    /// Changes when watches are to end.
    generation: u64,
}

/// The server.
pub(super) struct ApiServer {
    endpoint: String,
    credentials: PathBuf,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    pub(super) async fn start(tls: Option<&Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            version: 100,
            token: "secret".into(),
            ..State::default()
        }));
        let changed = watch::Sender::new(0);
        let acceptor = tls.map(Tls::acceptor);
        let is_secure = acceptor.is_some();
        let shared = (Arc::clone(&state), changed.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, shared, is_secure).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, shared, is_secure).await;
                            }
                        }
                    }
                });
            }
        });
        let scheme = if is_secure { "https" } else { "http" };
        Self {
            endpoint: format!("{scheme}://{address}"),
            credentials: tls.map(|tls| tls.folder().to_owned()).unwrap_or_default(),
            state,
            changed,
            task,
        }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn credentials(&self) -> &Path {
        &self.credentials
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn put(&self, resource: &str, object: Value) {
        self.change(|state| state.put(resource, object));
    }

    pub(super) fn delete(&self, resource: &str, name: &str) {
        self.change(|state| {
            let is_it = |object: &Value| object["metadata"]["name"] == name;
            let key = state
                .objects
                .iter()
                .find(|((of, _), object)| of == resource && is_it(object));
            let key = key.unwrap().0.clone();
            let object = state.objects.remove(&key).unwrap();
            state.note(resource, "DELETED", object);
        });
    }

    /// Nobody is answered, and nobody is connected any more.
    pub(super) fn stop(&self) {
        self.change(|state| {
            state.is_away = true;
            state.generation += 1;
        });
    }

    /// Answers again; what happened before is not known any more.
    pub(super) fn go_on(&self) {
        self.change(|state| {
            state.is_away = false;
            state.since = state.version;
        });
    }

    /// Forgets all that has happened.
    pub(super) fn forget(&self) {
        self.change(State::forget);
    }

    /// The same, and one thing more that nobody is told by a watch.
    pub(super) fn forget_with_the_node(&self, node: Value) {
        self.change(|state| {
            state.generation += 1;
            state.put("nodes", node);
            state.forget();
        });
    }

    pub(super) fn end_watches(&self) {
        self.change(|state| state.generation += 1);
    }

    pub(super) fn bookmark(&self) {
        self.change(|state| {
            let version = state.version.to_string();
            let object = json!({"metadata": {"resourceVersion": version}});
            for resource in ["nodes", "pods"] {
                let event = (
                    state.version,
                    resource.to_owned(),
                    "BOOKMARK",
                    object.clone(),
                );
                state.events.push(event);
            }
        });
    }

    pub(super) fn renew_token(&self, token: &str) {
        std::fs::write(self.credentials.join("token"), token).unwrap();
        token.clone_into(&mut self.state().token);
    }

    pub(super) fn answer_lists_with(&self, nonsense: Option<&str>) {
        self.state().nonsense = nonsense.map(str::to_owned);
    }

    /// What was done, as verb and resource.
    pub(super) fn used(&self) -> BTreeSet<(String, String)> {
        self.state().used.clone()
    }

    pub(super) fn lists(&self) -> usize {
        self.state().lists
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !is_so(&self.state()) {
                changed.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(SOON, waiting).await;
        waited.unwrap_or_else(|_| panic!("{what} in time"));
    }

    /// Waits until so many watches are open.
    pub(super) async fn watched(&self, count: usize) {
        self.wait("it is watched", |state| state.watches >= count)
            .await;
    }

    /// Waits until a list was asked for once more.
    pub(super) async fn asked_again(&self) {
        let before = self.state().asked;
        self.wait("it is asked again", |state| state.asked > before)
            .await;
    }
}

impl State {
    fn put(&mut self, resource: &str, object: Value) {
        let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
        let known = self
            .objects
            .contains_key(&(resource.to_owned(), uid.clone()));
        let object = self.note(resource, if known { "MODIFIED" } else { "ADDED" }, object);
        self.objects.insert((resource.to_owned(), uid), object);
    }

    fn note(&mut self, resource: &str, kind: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let event = (self.version, resource.to_owned(), kind, object.clone());
        self.events.push(event);
        object
    }

    fn forget(&mut self) {
        self.version += 1;
        self.since = self.version;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Shared = (Arc<Mutex<State>>, watch::Sender<u64>);

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    shared: Shared,
    is_secure: bool,
) {
    let mut ends = shared.1.subscribe();
    let state = Arc::clone(&shared.0);
    let service = service_fn(move |request| {
        std::future::ready(Ok::<_, Infallible>(answer(
            shared.clone(),
            &request,
            is_secure,
        )))
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let away = async {
        while !lock(&state).is_away {
            if ends.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        done = connection => drop(done),
        () = away => {}
    }
}

fn answer(
    (state, changed): Shared,
    request: &Request<Incoming>,
    is_secure: bool,
) -> Response<Body> {
    let query: BTreeMap<String, String> = {
        let text = request.uri().query().unwrap_or_default();
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| (name.into(), value.replace("%3D", "=")))
            .collect()
    };
    let resource = request.uri().path().rsplit('/').next().unwrap().to_owned();
    {
        let state = lock(&state);
        let sent = request.headers().get("authorization");
        let sent = sent.map(|value| value.to_str().unwrap().to_owned());
        if is_secure && sent != Some(format!("Bearer {}", state.token)) {
            return plain(StatusCode::UNAUTHORIZED, "Unauthorized");
        }
        assert!(is_secure || sent.is_none(), "a token goes over TLS only");
    }
    let selector = query["fieldSelector"].clone();
    let verb = verb(request, &query);
    lock(&state)
        .used
        .insert((verb.to_owned(), resource.clone()));
    if verb == "list" {
        let answer = list(&mut lock(&state), &resource, &selector);
        changed.send_modify(|count| *count += 1);
        return answer;
    }
    let from: u64 = query["resourceVersion"].parse().unwrap();
    {
        let mut state = lock(&state);
        if from < state.since {
            return plain(StatusCode::GONE, "{\"code\":410}");
        }
        state.watches += 1;
    }
    changed.send_modify(|count| *count += 1);
    let (lines, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(16);
    tokio::spawn(watch(state, changed, lines, resource, selector, from));
    let stream = futures_stream(receiver);
    Response::new(StreamBody::new(stream).boxed_unsync())
}

/// What a request is called in a role ("Determine the Request Verb", Kubernetes).
fn verb(request: &Request<Incoming>, query: &BTreeMap<String, String>) -> &'static str {
    let depth = request.uri().path().trim_matches('/').split('/').count();
    match (request.method().as_str(), depth) {
        ("GET", 3) if query.get("watch").is_some_and(|value| value == "1") => "watch",
        ("GET", 3) => "list",
        ("GET", _) => "get",
        _ => "something that changes it",
    }
}

fn futures_stream(
    receiver: mpsc::Receiver<Result<Frame<Bytes>, Infallible>>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    })
}

fn is_selected(object: &Value, selector: &str) -> bool {
    let (field, value) = selector.split_once('=').unwrap();
    let pointer = format!("/{}", field.replace('.', "/"));
    object.pointer(&pointer).and_then(Value::as_str) == Some(value)
}

fn list(state: &mut State, resource: &str, selector: &str) -> Response<Body> {
    state.asked += 1;
    if let Some(nonsense) = &state.nonsense {
        return plain(StatusCode::OK, nonsense);
    }
    state.lists += 1;
    let of = state.objects.iter().filter(|((of, _), _)| of == resource);
    let items: Vec<&Value> = of
        .map(|(_, object)| object)
        .filter(|object| is_selected(object, selector))
        .collect();
    let version = state.version.to_string();
    let body = json!({"metadata": {"resourceVersion": version}, "items": items});
    plain(StatusCode::OK, &body.to_string())
}

async fn watch(
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    lines: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    resource: String,
    selector: String,
    from: u64,
) {
    let mut changes = changed.subscribe();
    let generation = lock(&state).generation;
    let mut told = lock(&state)
        .events
        .iter()
        .filter(|event| event.0 <= from)
        .count();
    loop {
        let (new, is_over, is_forgotten) = {
            let state = lock(&state);
            let new: Vec<Value> = state.events[told..]
                .iter()
                .filter(|event| event.1 == resource)
                .filter(|event| event.2 == "BOOKMARK" || is_selected(&event.3, &selector))
                .map(|event| json!({"type": event.2, "object": event.3}))
                .collect();
            told = state.events.len();
            (
                new,
                state.generation != generation,
                state.since > from.max(100),
            )
        };
        if is_over {
            return;
        }
        for event in new {
            // In two parts: lines do not arrive as they were sent.
            let line = format!("{event}\n");
            let (one, other) = line.split_at(line.len() / 2);
            for part in [one, other] {
                let frame = Frame::data(Bytes::copy_from_slice(part.as_bytes()));
                if lines.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        }
        if is_forgotten {
            let line = Bytes::from_static(b"{\"type\":\"ERROR\",\"object\":{\"code\":410}}\n");
            drop(lines.send(Ok(Frame::data(line))).await);
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(text.to_owned()));
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}
