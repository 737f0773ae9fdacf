//! A client of Redis that knows exactly what was acknowledged, and can prove afterwards that it is
//! still there.

mod check;
mod connection;
mod content;
mod fill;
mod gap;
mod load;
mod record;
mod write;

pub(crate) use content::data_key;
pub(crate) use fill::fill;
pub(crate) use gap::{Counting, first_count};
pub(crate) use load::{Keys, Mix, Rate, first_answer};

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use bytesize::ByteSize;
use clap::{Args, Subcommand};

/// What to do with a Redis server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put data there that nobody changes afterwards
    Fill(Data),
    /// Print a digest of that data, as read back through the server
    Digest(Data),
    /// Write without a pause, whatever happens to the server, and record what was acknowledged;
    /// ends on SIGTERM or SIGINT
    Write(Write),
    /// Check that every acknowledged write is there
    Check(Check),
}

/// Which server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Server {
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:6379")]
    address: SocketAddr,
}

/// Data that stays as it is.
#[derive(Debug, Args)]
pub(crate) struct Data {
    #[command(flatten)]
    server: Server,
    /// How much
    #[arg(long, default_value = "1GiB")]
    size: ByteSize,
}

/// A client that writes.
#[derive(Debug, Args)]
pub(crate) struct Write {
    #[command(flatten)]
    server: Server,
    /// File for what was acknowledged
    #[arg(long)]
    record: PathBuf,
    /// Writes for each second
    #[arg(long, default_value_t = 2000)]
    rate: u32,
}

/// A check of what was written.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    server: Server,
    /// File of `redis write`
    #[arg(long)]
    record: PathBuf,
}

/// Does it.
pub(crate) async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Fill(data) => fill(data.server.address, data.size.as_u64()).await?,
        Command::Digest(data) => fill::digest(data.server.address, data.size.as_u64()).await?,
        Command::Write(write) => {
            write::write(write.server.address, &write.record, write.rate).await?;
        }
        Command::Check(check) => return check::check(check.server.address, &check.record).await,
    }
    Ok(ExitCode::SUCCESS)
}
