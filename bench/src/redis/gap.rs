//! When a server answered last, and when another one answers first that goes on where it was.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::connection::{Connection, Reply};

/// The key that is written.
const KEY: &[u8] = b"lifeboat-gap";

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(1);

/// Time between two attempts to be answered.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// Longest time that one attempt takes: who is not there yet may swallow the question.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(250);

/// The last number that was acknowledged, and when.
pub(crate) type Last = (Instant, u64);

/// Somebody who counts in a server, without a pause.
#[derive(Debug)]
pub(crate) struct Counting {
    last: Arc<Mutex<Option<Last>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Counting {
    /// Begins.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let last = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&last);
        let task = tokio::spawn(async move {
            let mut number = 0;
            // A connection that breaks is made anew: a server that was not taken away answers on.
            loop {
                drop(count(address, &mut number, &shared).await);
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        });
        Self { last, task }
    }

    /// Ends; tells what was acknowledged last.
    pub(crate) fn end(self) -> Option<Last> {
        self.task.abort();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn count(
    address: SocketAddr,
    number: &mut u64,
    last: &Mutex<Option<Last>>,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    loop {
        *number += 1;
        let text = number.to_string();
        connection.send(&[&[b"SET", KEY, text.as_bytes()]]).await?;
        connection.receive().await?;
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), *number));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Waits until a server answers, and tells where the count is there.
pub(crate) async fn first_count(address: SocketAddr, limit: Duration) -> anyhow::Result<Last> {
    let ask = async {
        loop {
            match tokio::time::timeout(ATTEMPT_LIMIT, read(address)).await {
                Ok(Ok(number)) => return Ok((Instant::now(), number)),
                Ok(Err(error)) if error.is::<Wrong>() => return Err(error),
                Ok(Err(_)) | Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(limit, ask)
        .await
        .with_context(|| format!("no answer of {address} within {limit:?}"))?
}

/// It answers something else.
#[derive(Debug)]
struct Wrong;

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server does not know the count")
    }
}

impl std::error::Error for Wrong {}

async fn read(address: SocketAddr) -> anyhow::Result<u64> {
    let mut connection = Connection::open(address).await?;
    connection.send(&[&[b"GET", KEY]]).await?;
    let Reply::Value(Some(value)) = connection.receive().await? else {
        bail!(Wrong);
    };
    let text = std::str::from_utf8(&value).ok();
    text.and_then(|text| text.parse().ok()).context(Wrong)
}
