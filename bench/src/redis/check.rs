//! Is every acknowledged write there?

use std::{net::SocketAddr, path::Path, process::ExitCode};

use anyhow::Context as _;

use super::{
    connection::{Connection, Reply},
    content::{number_of, written_key},
    record::Recorded,
};

/// Keys asked for at once.
const PIPELINED: usize = 256;

/// Wrong keys that are named.
const NAMED_MAX: usize = 10;

/// Compares the server with the record; the exit code says whether all is well.
#[expect(clippy::print_stdout, reason = "this is the result")]
pub(super) async fn check(address: SocketAddr, record: &Path) -> anyhow::Result<ExitCode> {
    let recorded = Recorded::read(record)?;
    let mut connection = Connection::open(address)
        .await
        .context("connect to redis")?;
    let mut keys: Vec<_> = recorded.keys.iter().collect();
    keys.sort_unstable_by_key(|(key, _)| **key);
    let mut wrong = 0;
    for batch in keys.chunks(PIPELINED) {
        for (key, _) in batch {
            connection.send(&[&[b"GET", &written_key(**key)]]).await?;
        }
        for (key, expected) in batch {
            let Reply::Value(value) = connection.receive().await? else {
                anyhow::bail!("key {key} is not a value");
            };
            let found = value.as_deref().map(number_of);
            // A value that no write has left is as wrong as a missing one.
            let right = found != Some(None) && expected.allows(found.flatten());
            if !right {
                wrong += 1;
                if wrong <= NAMED_MAX {
                    println!("key {key}: expected {expected:?}, found {found:?}");
                }
            }
        }
    }
    let total = recorded.acknowledged;
    println!(
        "{total} acknowledged writes to {} keys: {wrong} keys are wrong",
        keys.len()
    );
    let all_well = wrong == 0 && total > 0;
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
