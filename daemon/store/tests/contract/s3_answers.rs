//! What S3's answers mean, and what becomes of broken ones: against a server with a script.

use std::{sync::Arc, time::Duration};

use lifeboat_store::{
    Call, ErrorKind, Prefix, Store,
    retry::Retrying,
    s3::{AccessKey, S3, Settings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::conformance::{NOW, bytes, fails_as, key};

/// How the scripted server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Hold,
}

/// A store whose server gives `answer` to every request and then ends the connection.
async fn scripted(answer: String, end: End) -> (S3, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve(socket, answer.clone(), end));
        }
    });
    let store = S3::open(Settings {
        bucket: "boats".to_owned(),
        prefix: Prefix::ROOT,
        endpoint: Some(endpoint),
        region: None,
        path_style: None,
        credentials: Some(AccessKey {
            id: "id".to_owned(),
            secret: "secret".to_owned(),
        }),
    });
    (store.await, server)
}

async fn serve(mut socket: TcpStream, answer: String, end: End) {
    let (mut seen, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&seen).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).map_or(0, |rest| {
                rest.split("\r\n").next().unwrap().parse().unwrap()
            });
            if body.len() >= length {
                break;
            }
        }
        match socket.read(&mut part).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&part[..read]),
            _ => return,
        }
    }
    socket.write_all(answer.as_bytes()).await.unwrap();
    if end == End::Hold {
        std::future::pending::<()>().await;
    }
}

fn error(status: u16, code: &str) -> String {
    let body = format!("<Error><Code>{code}</Code><Message>As scripted.</Message></Error>");
    format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn codes_and_statuses_have_their_meaning() {
    // Status, code; meaning for a put; meaning for a create.
    let cases = [
        (
            412,
            "PreconditionFailed",
            ErrorKind::AlreadyExists,
            ErrorKind::AlreadyExists,
        ),
        (
            409,
            "ConditionalRequestConflict",
            ErrorKind::Transient,
            ErrorKind::Transient,
        ),
        (503, "SlowDown", ErrorKind::Transient, ErrorKind::Transient),
        (
            500,
            "InternalError",
            ErrorKind::Transient,
            ErrorKind::Unknown,
        ),
        (502, "BadGateway", ErrorKind::Transient, ErrorKind::Unknown),
        (
            400,
            "RequestTimeout",
            ErrorKind::Transient,
            ErrorKind::Transient,
        ),
        (400, "BadDigest", ErrorKind::Transient, ErrorKind::Transient),
        (
            400,
            "InvalidArgument",
            ErrorKind::Invalid,
            ErrorKind::Invalid,
        ),
        (403, "AccessDenied", ErrorKind::Denied, ErrorKind::Denied),
        (400, "ExpiredToken", ErrorKind::Denied, ErrorKind::Denied),
        (403, "QuotaExceeded", ErrorKind::Full, ErrorKind::Full),
        (507, "InsufficientStorage", ErrorKind::Full, ErrorKind::Full),
        (
            404,
            "NoSuchBucket",
            ErrorKind::NoBucket,
            ErrorKind::NoBucket,
        ),
        (
            501,
            "NotImplemented",
            ErrorKind::Unsupported,
            ErrorKind::Unsupported,
        ),
    ];
    for (status, code, put, create) in cases {
        let (store, _server) = scripted(error(status, code), End::Close).await;
        fails_as(store.put(&key("a"), bytes(1, 10), NOW).await, put);
        let created = store.put_if_absent(&key("a"), bytes(1, 10), NOW).await;
        assert!(
            created
                .as_ref()
                .is_err_and(|error| error.to_string().contains(code))
        );
        fails_as(created, create);
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    for (status, code, hint) in [
        (301, "PermanentRedirect", "write ?region="),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "SignatureDoesNotMatch", "secret key"),
        (403, "InvalidAccessKeyId", "access key"),
    ] {
        let (store, _server) = scripted(error(status, code), End::Close).await;
        let error = store
            .put(&key("a"), bytes(1, 10), NOW)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(hint) && error.contains("As scripted."),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_lost_answer_leaves_a_conditional_write_unknown() {
    let (store, _server) = scripted(String::new(), End::Close).await;
    fails_as(
        store.put(&key("a"), bytes(1, 10), NOW).await,
        ErrorKind::Transient,
    );
    fails_as(
        store.put_if_absent(&key("a"), bytes(1, 10), NOW).await,
        ErrorKind::Unknown,
    );
    let (store, _server) = scripted("nonsense\r\n\r\n".to_owned(), End::Close).await;
    fails_as(
        store.put_if_absent(&key("a"), bytes(1, 10), NOW).await,
        ErrorKind::Unknown,
    );
}

#[tokio::test]
async fn a_body_that_ends_early_is_not_an_object() {
    let head = "HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 10\r\n\r\n";
    let (store, _server) = scripted(format!("{head}12345"), End::Close).await;
    fails_as(store.get(&key("a"), 99, NOW).await, ErrorKind::Transient);
    let head = "HTTP/1.1 206 OK\r\ncontent-range: bytes 0-9/10\r\ncontent-length: 5\r\n\r\n";
    let (store, _server) = scripted(format!("{head}12345"), End::Close).await;
    fails_as(
        store.get_range(&key("a"), 0, 10, NOW).await,
        ErrorKind::Transient,
    );
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_not_taken() {
    let head = "HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 10\r\n\r\n0123456789";
    let (store, _server) = scripted(head.to_owned(), End::Close).await;
    fails_as(
        store.get_range(&key("a"), 2, 3, NOW).await,
        ErrorKind::Unsupported,
    );
    let head = "HTTP/1.1 206 OK\r\ncontent-range: bytes 0-2/10\r\ncontent-length: 3\r\n\r\n012";
    let (store, _server) = scripted(head.to_owned(), End::Close).await;
    fails_as(
        store.get_range(&key("a"), 2, 3, NOW).await,
        ErrorKind::Transient,
    );
    fails_as(
        store.get_range(&key("a"), 2, 30, NOW).await,
        ErrorKind::OutOfRange,
    );
}

#[tokio::test]
async fn without_a_stamp_there_is_no_object_to_compare() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
    let (store, _server) = scripted(head.to_owned(), End::Close).await;
    fails_as(store.get(&key("a"), 9, NOW).await, ErrorKind::Unsupported);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (store, _server) = scripted(head.to_owned(), End::Close).await;
    store.put(&key("a"), bytes(1, 1), NOW).await.unwrap();
    fails_as(
        store.put_if_absent(&key("a"), bytes(1, 1), NOW).await,
        ErrorKind::Unsupported,
    );
}

#[tokio::test]
async fn a_connection_that_falls_silent_does_not_outlast_the_deadline() {
    let head = "HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 10\r\n\r\n12345";
    let (store, _server) = scripted(head.to_owned(), End::Hold).await;
    let store = Retrying::new(Arc::new(store));
    let began = std::time::Instant::now();
    let call = Call::within(Duration::from_millis(500));
    fails_as(store.get(&key("a"), 99, call).await, ErrorKind::Deadline);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test]
async fn without_a_connection_nothing_was_written() {
    let (store, server) = scripted(String::new(), End::Close).await;
    drop(server);
    unreachable(&store).await;
}

/// What a store says whose server cannot be reached: that nothing was done.
pub(crate) async fn unreachable(store: &dyn Store) {
    fails_as(
        store.put(&key("a"), bytes(1, 10), NOW).await,
        ErrorKind::Transient,
    );
    fails_as(store.get(&key("a"), 10, NOW).await, ErrorKind::Transient);
    let created = store.put_if_absent(&key("a"), bytes(1, 10), NOW).await;
    assert!(
        created
            .as_ref()
            .is_err_and(|error| error.to_string().contains("no connection"))
    );
    fails_as(created, ErrorKind::Transient);
}
