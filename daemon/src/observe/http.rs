//! `/metrics`, `/healthz` and `/readyz` for whoever scrapes and probes.
//!
//! Three fixed answers to GET; a request is read up to [`REQUEST_BYTES_MAX`] and within
//! [`REQUEST_TIMEOUT`].

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::daemon::Context;

/// Largest head of a request, in bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// Longest time for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Most requests at once.
const REQUESTS_MAX: usize = 32;

/// Serves until the task is aborted.
pub async fn serve(listener: TcpListener, context: Arc<Context>) {
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            // A peer that goes away is its own business.
            drop(timeout(REQUEST_TIMEOUT, answer(stream, &context)).await);
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, context: &Context) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut piece).await?;
        if read == 0 || request.len() + read > REQUEST_BYTES_MAX {
            return Ok(());
        }
        request.extend_from_slice(&piece[..read]);
    }
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path) = (words.next(), words.next());
    let (status, kind, body) = match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => (
            "200 OK",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            context.figures(),
        ),
        (Some(b"GET"), Some(b"/healthz" | b"/readyz")) => ("200 OK", "text/plain", "ok\n".into()),
        _ => (
            "404 Not Found",
            "text/plain",
            "there are /metrics, /healthz and /readyz\n".into(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
