//! From the call on another machine until redis answers again, by its size: Lifeboat, and a full
//! `criu restore` after its download.

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::json;
use tokio::process::Command;

use super::{
    Bench, Setting,
    lifeboat::millis,
    node::{Node, Orders},
    redis_server,
    report::{Check, Outcome, Plot, Table, median, ratio, seconds, size},
    stock,
    transfer::Transfer,
};
use crate::redis::{data_key, fill, first_answer};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Acceptance: longest time to the first answer, in milliseconds.
const FIRST_ANSWER_MS: f64 = 400.0;

/// Acceptance: the largest server's time to the smallest one's.
const RATIO: f64 = 1.3;

/// Acceptance: times faster than criu restore.
const TIMES: f64 = 10.0;

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    setting: Setting,
    /// Sizes of the data in redis
    #[arg(long, value_delimiter = ',', default_value = "32MiB,128MiB")]
    sizes: Vec<ByteSize>,
    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// One size.
#[derive(Debug, Serialize)]
struct One {
    data_bytes: u64,
    lifeboat_ms: Vec<u64>,
    loaded_ms: Vec<u64>,
    stock_ms: Vec<u64>,
}

impl Restore {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let mut all = Vec::new();
        for size in &self.sizes {
            let mut one = One {
                data_bytes: size.as_u64(),
                lifeboat_ms: Vec::new(),
                loaded_ms: Vec::new(),
                stock_ms: Vec::new(),
            };
            for round in 0..self.rounds {
                let name = format!("redis-{}-{}-{round}", std::process::id(), size.as_u64());
                let (answer_ms, loaded_ms) = ours(&bench, &name, size.as_u64()).await?;
                one.lifeboat_ms.push(answer_ms);
                one.loaded_ms.push(loaded_ms);
                bench.empty_store()?;
                one.stock_ms
                    .push(theirs(&bench, &name, size.as_u64()).await?);
            }
            all.push(one);
        }
        bench.print(outcome(&all))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Until the first answer, and until all memory is loaded.
async fn ours(bench: &Bench, name: &str, bytes: u64) -> anyhow::Result<(u64, u64)> {
    let orders = Orders::default();
    let a = Node::start(bench, &format!("{name}-a"), orders).await?;
    let b = Node::start(bench, &format!("{name}-b"), orders).await?;
    let address = redis_server::free_address()?;
    let before = redis_server::start(&a, name, address, bench.path()).await?;
    fill(address, bytes).await?;
    a.evacuate(name).await?;
    before.end(LIMIT).await?;
    let began = Instant::now();
    let arguments = redis_server::command_line(address, bench.path());
    let after = b.run_program(name, &arguments)?;
    let answered = first_answer(address, Some(&data_key(0)), LIMIT).await?;
    let loaded = b.wait_for_state(name, "running", LIMIT).await?;
    after.terminate().await?;
    a.stop().await?;
    b.stop().await?;
    Ok((millis(answered - began), millis(loaded - began)))
}

/// Until the first answer.
async fn theirs(bench: &Bench, name: &str, bytes: u64) -> anyhow::Result<u64> {
    let folder = bench.path().join(format!("{name}-stock"));
    std::fs::create_dir(&folder).context("make a folder")?;
    let address = redis_server::free_address()?;
    let (pid, child) = start(address, &folder)?;
    first_answer(address, None, LIMIT).await?;
    fill(address, bytes).await?;
    let criu = bench.setting.criu.join("bin/criu");
    let transfer = Transfer::open(&bench.store, name.to_owned()).await?;
    let images = stock::images_folder()?;
    stock::dump(&criu, pid, images.path(), &[]).await?;
    let (parts, _) = stock::pack(&transfer, images.path()).await?;
    // As the new machine has it: nothing.
    drop(images);
    stock::reap(child).await?;
    let began = Instant::now();
    let images = stock::images_folder()?;
    stock::unpack(&transfer, parts, images.path()).await?;
    stock::restore(&criu, images.path()).await?;
    let answered = first_answer(address, Some(&data_key(0)), LIMIT).await?;
    kill_process(pid, Signal::KILL).context("end redis")?;
    transfer.delete(parts).await?;
    Ok(millis(answered - began))
}

/// A server that CRIU can take away: a session and files of its own.
fn start(address: SocketAddr, folder: &Path) -> anyhow::Result<(Pid, tokio::process::Child)> {
    let child = Command::new("setsid")
        .args(redis_server::command_line(address, folder))
        .stdin(Stdio::null())
        .stdout(File::create(folder.join("out")).context("make a file")?)
        .stderr(File::create(folder.join("err")).context("make a file")?)
        .spawn()
        .context("start redis-server")?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.and_then(Pid::from_raw).context("redis has ended")?;
    Ok((pid, child))
}

fn outcome(all: &[One]) -> Outcome {
    let mut table = Table::new(&[
        "first answer",
        "lifeboat",
        "all loaded",
        "criu restore",
        "ratio",
    ]);
    let (mut bars, mut least_times, mut longest) = (Vec::new(), f64::MAX, 0.0_f64);
    let mut firsts = Vec::new();
    for one in all {
        let middle = |all: &[u64]| median(all.to_vec());
        let (mine, other) = (middle(&one.lifeboat_ms), middle(&one.stock_ms));
        let (label, times) = (size(one.data_bytes), ratio(other, mine));
        table.row([
            label.clone(),
            seconds(mine),
            seconds(middle(&one.loaded_ms)),
            seconds(other),
            format!("{times:.1}"),
        ]);
        bars.push((format!("{label}, lifeboat"), ratio(mine, 1)));
        bars.push((format!("{label}, criu restore"), ratio(other, 1)));
        least_times = least_times.min(times);
        longest = longest.max(ratio(mine, 1));
        firsts.push(mine);
    }
    let ends = firsts.first().zip(firsts.last());
    let growth = ends.map_or(1.0, |(first, last)| ratio(*last, *first));
    Outcome {
        scenario: "restore",
        table,
        figures: json!({ "sizes": all, "ratio": growth, "least_times": least_times }),
        checks: vec![
            Check::at_most(
                "longest time to the first answer in ms",
                longest,
                FIRST_ANSWER_MS,
            ),
            Check::at_most("largest to smallest", growth, RATIO),
            Check::at_least("least times faster than criu restore", least_times, TIMES),
        ],
        plots: vec![Plot::new("Until redis answers again", "ms", bars)],
    }
}
