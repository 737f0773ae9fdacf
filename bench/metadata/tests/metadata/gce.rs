//! What the documents promise of the metadata server.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use std::net::SocketAddr;

use lifeboat_metadata::{Control, Emulator, Wanted};

/// Path below which the values are.
const ROOT: &str = "/computeMetadata/v1/instance/";

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Server(SocketAddr, Control);

pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let find = |line: &str| Some(line.split_once(": ")?.1.to_owned());
        self.headers
            .lines()
            .find(|line| line.starts_with(name))
            .and_then(find)
    }

    fn etag(&self) -> String {
        self.header("etag").expect("values have an etag")
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let emulator = Emulator::bind("127.0.0.1:0".parse().unwrap(), Wanted::All)
            .await
            .unwrap();
        let address = emulator.address().unwrap();
        let control = emulator.control();
        tokio::spawn(emulator.serve());
        Self(address, control)
    }

    /// Waits until a request is being answered.
    async fn is_asked(&self) {
        let asked = async {
            while self.1.asking() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, asked).await.unwrap();
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Got {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        Got {
            status,
            headers: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, query: &str) -> Got {
        let path = format!("{ROOT}preempted{query}");
        self.send("GET", &path, "Metadata-Flavor: Google\r\n", "")
            .await
    }

    pub(crate) async fn set(&self, name: &str, value: &str) -> u16 {
        self.send("PUT", &format!("/control/{name}"), "", value)
            .await
            .status
    }
}

#[tokio::test]
async fn requests_without_the_header_or_through_a_proxy_are_refused() {
    let server = Server::start().await;
    let path = format!("{ROOT}preempted");
    assert_eq!(server.send("GET", &path, "", "").await.status, 403);
    let proxied = "Metadata-Flavor: Google\r\nX-Forwarded-For: 1.2.3.4\r\n";
    assert_eq!(server.send("GET", &path, proxied, "").await.status, 403);
    let got = server.get("").await;
    assert_eq!((got.status, got.body.as_str()), (200, "FALSE"));
    assert_eq!(got.header("metadata-flavor").as_deref(), Some("Google"));
}

#[tokio::test]
async fn a_wait_ends_with_the_change() {
    let server = Server::start().await;
    let etag = server.get("").await.etag();
    let wait = format!("?wait_for_change=true&last_etag={etag}&timeout_sec=20");
    let (got, ()) = tokio::join!(server.get(&wait), async {
        server.is_asked().await;
        // Another value is not what is waited for.
        assert_eq!(
            server
                .set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
                .await,
            200
        );
        assert_eq!(server.set("preempted", "TRUE").await, 200);
    });
    assert_eq!(got.body, "TRUE");
    assert_ne!(got.etag(), etag);
}

#[tokio::test]
async fn a_wait_with_an_old_etag_ends_at_once_and_one_without_does_not() {
    let server = Server::start().await;
    let etag = server.get("").await.etag();
    assert_eq!(server.set("preempted", "TRUE").await, 200);
    let began = Instant::now();
    let missed = format!("?wait_for_change=true&last_etag={etag}&timeout_sec=20");
    assert_eq!(server.get(&missed).await.body, "TRUE");
    assert!(began.elapsed() < Duration::from_secs(5));
    // The trap that a watcher must know: it waits for the *next* change.
    let began = Instant::now();
    assert_eq!(
        server.get("?wait_for_change=true&timeout_sec=1").await.body,
        "TRUE"
    );
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn maintenance_answers_503_also_to_those_who_wait() {
    let server = Server::start().await;
    let etag = server.get("").await.etag();
    let wait = format!("?wait_for_change=true&last_etag={etag}");
    let (got, status) = tokio::join!(server.get(&wait), async {
        server.is_asked().await;
        server.set("unavailable", "true").await
    });
    assert_eq!((got.status, status), (503, 200));
    assert_eq!(server.get("").await.status, 503);
    assert_eq!(server.set("unavailable", "false").await, 200);
    assert_eq!(server.get("").await.body, "FALSE");
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let server = Server::start().await;
    let headers = "Metadata-Flavor: Google\r\n";
    for path in ["/", "/computeMetadata/v1/instance/nothing"] {
        assert_eq!(server.send("GET", path, headers, "").await.status, 404);
    }
    assert_eq!(server.set("nothing", "x").await, 404);
}
