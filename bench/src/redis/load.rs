//! Clients that work a server as fast as it answers, and how fast that is.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use super::connection::{Connection, Reply};
use crate::workload::{Locality, mixed};

/// Commands in flight at once while the data is put there.
const PIPELINED: u64 = 128;

/// Pause between attempts to reach a server that is coming.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// One SET for four GETs, most of them of few keys.
    Skewed,
    /// SETs only, of any key.
    Uniform,
}

/// A server and its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub address: SocketAddr,
    /// Number of keys.
    pub count: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
}

/// How fast it was.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Rate {
    /// Commands answered in a second.
    pub per_second: u64,
    /// Time of the middle one, in microseconds.
    pub p50_us: u64,
    /// Time that one of a hundred exceeds, in microseconds.
    pub p99_us: u64,
}

impl Keys {
    fn key(number: u64) -> Vec<u8> {
        format!("key:{number:012}").into_bytes()
    }

    /// Puts a value under each key.
    pub(crate) async fn fill(self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let mut random = 1;
        for first in (0..self.count).step_by(usize::try_from(PIPELINED)?) {
            let batch = first..(first + PIPELINED).min(self.count);
            for number in batch.clone() {
                let value = self.value(&mut random);
                let key = Self::key(number);
                connection.send(&[&[b"SET", &key, &value]]).await?;
            }
            for _ in batch {
                connection.receive().await?;
            }
        }
        Ok(())
    }

    /// Half noise, half the same.
    fn value(self, random: &mut u64) -> Vec<u8> {
        let mut value = vec![b'x'; self.value_bytes];
        for word in value[..self.value_bytes / 2].chunks_exact_mut(8) {
            word.copy_from_slice(&mixed(random).to_ne_bytes());
        }
        value
    }

    /// Has `clients` work for a time.
    pub(crate) async fn load(self, mix: Mix, clients: u16, time: Duration) -> anyhow::Result<Rate> {
        let began = Instant::now();
        let work = (0..clients).map(|client| tokio::spawn(self.work(mix, client, began + time)));
        let work: Vec<_> = work.collect();
        let mut all = Vec::new();
        for one in work {
            all.extend(one.await??);
        }
        let took = began.elapsed();
        all.sort_unstable();
        let at = |percent: usize| all.get(all.len() * percent / 100).copied().unwrap_or(0);
        let micros = u64::try_from(took.as_micros())?.max(1);
        Ok(Rate {
            per_second: all.len() as u64 * 1_000_000 / micros,
            p50_us: at(50),
            p99_us: at(99),
        })
    }

    /// One client; returns how long each command took, in microseconds.
    async fn work(self, mix: Mix, client: u16, end: Instant) -> anyhow::Result<Vec<u64>> {
        let mut connection = Connection::open(self.address).await?;
        let mut random = u64::from(client) << 32;
        let value: Arc<[u8]> = self.value(&mut random).into();
        let count = usize::try_from(self.count)?;
        let mut times = Vec::new();
        loop {
            let began = Instant::now();
            if began >= end {
                return Ok(times);
            }
            let (locality, is_set) = match mix {
                Mix::Uniform => (Locality::Uniform, true),
                Mix::Skewed => (Locality::Skewed, mixed(&mut random).is_multiple_of(5)),
            };
            let key = Self::key(locality.choose(&mut random, count) as u64);
            if is_set {
                connection.set(&key, &value).await?;
            } else {
                connection.send(&[&[b"GET", &key]]).await?;
                let Reply::Value(Some(_)) = connection.receive().await? else {
                    bail!("a key is gone");
                };
            }
            times.push(u64::try_from(began.elapsed().as_micros())?);
        }
    }
}

/// Waits until a server answers a question about its data, or about nothing; says when it did.
pub(crate) async fn first_answer(
    address: SocketAddr,
    key: Option<&[u8]>,
    limit: Duration,
) -> anyhow::Result<Instant> {
    let ask = async {
        loop {
            let asked = async {
                let mut connection = Connection::open(address).await?;
                match key {
                    Some(key) => connection.send(&[&[b"GET", key]]).await?,
                    None => connection.send(&[&[b"PING"]]).await?,
                }
                connection.receive().await
            };
            match asked.await {
                Ok(Reply::Value(None)) => bail!("the data is gone"),
                Ok(_) => return Ok(Instant::now()),
                Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(limit, ask)
        .await
        .with_context(|| format!("no answer of {address} within {limit:?}"))?
}
