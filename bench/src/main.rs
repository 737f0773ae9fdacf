//! Scenarios that measure Lifeboat against what a user would pick instead, and the programs that
//! they and the demonstration need.
//!
//! Everything here works on the product as it is installed: the daemon's and the client's programs,
//! real CRIU, real stores.
#![forbid(unsafe_code)]

mod page;
mod redis;
mod scenario;
mod timeline;
mod workload;

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};
use lifeboat_metadata::{Emulator, Wanted};

#[derive(Debug, Parser)]
#[command(name = "lifeboat-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play a cloud's metadata server; prints its URL
    MetadataEmulator {
        /// Whose: gce, aws, azure, or all of them
        #[arg(default_value = "all")]
        cloud: Wanted,
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Be a client of Redis that knows what was acknowledged
    #[command(subcommand)]
    Redis(redis::Command),
    /// Make a page of the results of scenarios
    Report(page::Report),
    /// Measure something
    #[command(subcommand)]
    Run(scenario::Scenario),
    /// Print what took how long
    Timeline(timeline::Timeline),
    /// Be a program with much memory that checks itself
    Workload(workload::Shape),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::MetadataEmulator { cloud, listen } => block_on(emulate(cloud, listen)),
        Command::Redis(command) => block_on(redis::execute(command)),
        Command::Report(report) => page::write(&report).map(|()| ExitCode::SUCCESS),
        Command::Run(scenario) => block_on(scenario::run(scenario)),
        Command::Timeline(timeline) => timeline::print(&timeline).map(|()| ExitCode::SUCCESS),
        Command::Workload(shape) => workload::run(&shape),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[expect(clippy::print_stdout, reason = "this is the result")]
async fn emulate(cloud: Wanted, listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let emulator = Emulator::bind(listen, cloud).await?;
    println!("http://{}", emulator.address()?);
    match emulator.serve().await? {}
}
