//! Data that nobody changes: putting it there, and its digest.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use super::{
    connection::{Connection, Reply},
    content::{data_key, data_value, values_of},
};

/// Commands in flight at once.
const PIPELINED: u64 = 32;

/// Puts the data there.
pub(crate) async fn fill(address: SocketAddr, size: u64) -> anyhow::Result<()> {
    let mut connection = Connection::open(address)
        .await
        .context("connect to redis")?;
    let count = values_of(size);
    let mut value = Vec::new();
    for first in (0..count).step_by(usize::try_from(PIPELINED)?) {
        let batch = first..(first + PIPELINED).min(count);
        for number in batch.clone() {
            data_value(number, &mut value);
            connection
                .send(&[&[b"SET", &data_key(number), &value]])
                .await?;
        }
        for number in batch {
            match connection.receive().await? {
                Reply::Simple(line) if line == "OK" => {}
                reply => bail!("value {number} was not taken: {reply:?}"),
            }
        }
    }
    Ok(())
}

/// Prints the digest of all the data, read back through the server.
#[expect(clippy::print_stdout, reason = "this is the result")]
pub(super) async fn digest(address: SocketAddr, size: u64) -> anyhow::Result<()> {
    let mut connection = Connection::open(address)
        .await
        .context("connect to redis")?;
    let count = values_of(size);
    let mut hasher = blake3::Hasher::new();
    for first in (0..count).step_by(usize::try_from(PIPELINED)?) {
        let batch = first..(first + PIPELINED).min(count);
        let keys: Vec<_> = batch.clone().map(data_key).collect();
        for key in &keys {
            connection.send(&[&[b"GET", key]]).await?;
        }
        for key in &keys {
            hasher.update(key);
            match connection.receive().await? {
                Reply::Value(Some(value)) => hasher.update(&value),
                reply => bail!("{} is gone: {reply:?}", String::from_utf8_lossy(key)),
            };
        }
    }
    println!("{}", hasher.finalize());
    Ok(())
}
