//! Servers that answer something else than documented.

use std::time::Duration;

use lifeboat_metadata::Control;
use lifeboat_watch::{Cloud, CloudChoice, Source, client::Client};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::support::{Watched, nobody};

/// Answers every request with these bytes and closes; returns the address.
async fn server(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                drop(stream.read(&mut request).await);
                drop(stream.write_all(&answer).await);
            });
        }
    });
    format!("http://{address}")
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into()
}

#[tokio::test]
async fn no_strange_answer_is_a_notice_and_every_source_says_that_it_fails() {
    let strange = [
        answer("200 OK", "TRUE"),
        answer(
            "200 OK\r\nMetadata-Flavor: Google\r\nETag: a&b=c",
            "<html>TRUE</html>",
        ),
        answer(
            "200 OK",
            r#"{"DocumentIncarnation": 1, "Events": [{"EventId": 7}]}"#,
        ),
        answer("302 Found\r\nLocation: http://127.0.0.1:1/", ""),
        answer("407 Proxy Authentication Required", "TRUE"),
        answer("500 Oh", "{"),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        Vec::new(),
    ];
    for bytes in strange {
        let mut config = nobody();
        config.cloud = CloudChoice::These(Cloud::ALL.to_vec());
        config.set_endpoint(&server(bytes.clone()).await);
        let mut watched = Watched::of(Control::default(), config);
        for source in [Source::Gce, Source::Aws, Source::Azure] {
            watched
                .board_shows(|all| {
                    all.iter()
                        .any(|one| one.source == source && one.failed.is_some())
                })
                .await;
        }
        watched.nothing().await;
        let all = watched.board.sources();
        let works = |source| all.iter().any(|one| one.source == source && one.works());
        assert!(!works(Source::Gce) && !works(Source::Azure), "{all:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_is_not_read_to_its_end() {
    let mut endless = b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n".to_vec();
    endless.resize(4 << 20, b'x');
    let client = Client::new(&server(endless).await).unwrap();
    let error = client
        .get("/", &[], Duration::from_secs(20))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("length limit exceeded"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_is_silent_is_given_up_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let error = client
        .get("/", &[], Duration::from_millis(100))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no answer within 100ms"),
        "{error}"
    );
}

#[test]
fn an_endpoint_is_an_http_address() {
    for wrong in [
        "",
        "169.254.169.254",
        "https://x",
        "http://",
        "http://a b",
        "file:///x",
        "http://x/?y",
    ] {
        let error = Client::new(wrong).unwrap_err().to_string();
        assert!(error.contains("http://169.254.169.254"), "{wrong}: {error}");
    }
}
