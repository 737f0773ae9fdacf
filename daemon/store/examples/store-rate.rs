//! Measures how fast packs go to a store and come back.
//!
//! ```text
//! store-rate URL [OBJECTS [MIB [PARALLEL]]]
//! ```
//! Writes OBJECTS (64) objects of MIB (16) MiB each, PARALLEL (8) at a time, reads them by range,
//! deletes them, and prints rates and latencies. Credentials come from the environment.

#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use lifeboat_store::{Call, Key, Options, Store, open_retrying};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .context("usage: store-rate URL [OBJECTS [MIB [PARALLEL]]]")?;
    let mut number = |default: usize| -> anyhow::Result<usize> {
        arguments
            .next()
            .map_or(Ok(default), |text| text.parse().context("not a number"))
    };
    let (objects, mib, parallel) = (number(64)?, number(16)?, number(8)?);
    let store = open_retrying(&url, &Options::default()).await?;
    let probed = lifeboat_store::probe::probe(&*store, Call::default()).await?;
    println!("{}: {probed:?}", store.describe());
    let body: Bytes = (0..=250)
        .cycle()
        .take(mib << 20)
        .collect::<Vec<u8>>()
        .into();
    let keys: Vec<_> = (0..objects)
        .map(|n| Key::new(format!("rate/{:02x}/{n}", n % 256)))
        .collect::<Result<_, _>>()?;
    let len = body.len() as u64;
    measure("put", &keys, parallel, len, |key| {
        let (store, body) = (Arc::clone(&store), body.clone());
        async move {
            store
                .put(&key, body, Call::default())
                .await
                .map_err(Into::into)
        }
    })
    .await?;
    measure("get range", &keys, parallel, len, |key| {
        let store = Arc::clone(&store);
        async move {
            store
                .get_range(&key, 0, len, Call::default())
                .await
                .map(drop)
                .map_err(Into::into)
        }
    })
    .await?;
    for key in &keys {
        store.delete(key, Call::default()).await?;
    }
    println!("{:?}", store.stats());
    Ok(())
}

/// Runs `one` for all keys, and prints what it took.
async fn measure<F>(
    what: &str,
    keys: &[Key],
    parallel: usize,
    len: u64,
    one: impl Fn(Key) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let began = Instant::now();
    let mut took: Vec<Duration> = stream::iter(keys.iter().cloned().map(one))
        .map(|task| async {
            let began = Instant::now();
            tokio::spawn(task).await??;
            anyhow::Ok(began.elapsed())
        })
        .buffer_unordered(parallel)
        .try_collect()
        .await?;
    let total = began.elapsed();
    took.sort_unstable();
    let at = |percent: usize| {
        took.get(took.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    let mib = (len >> 20) as f64 * keys.len() as f64;
    println!(
        "{what}: {:.0} MiB/s ({mib} MiB in {total:.2?}, {parallel} at a time; p50 {:.0?}, p95 {:.0?}, max {:.0?})",
        mib / total.as_secs_f64(),
        at(50),
        at(95),
        took.last().copied().unwrap_or_default(),
    );
    Ok(())
}
