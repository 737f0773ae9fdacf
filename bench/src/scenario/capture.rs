//! How fast memory is captured, without compression and without a store: the daemon's own pipeline
//! (read, frame, digest, pack; a null store) beside nothing but process_vm_readv into reused buffers.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use lifeboat_format::{Effort, PackOrigin, Seal, frame::FRAME_PAGES_MAX};
use lifeboat_proto::{
    id::{Epoch, WorkloadName},
    units::{PAGE_BYTES, PageIndex, PageRun},
};
use lifeboat_store::{Call, Store};
use lifeboat_sys::{
    maps,
    pagemap::{Pagemap, Query},
    vm::RemoteMemory,
};
use lifeboatd::pipeline::{Memory, Pipeline, PipelineOptions, Purpose, Rates, Source};
use rustix::process::Pid;
use serde_json::json;
use tokio::process::Command;

use super::{
    Bench, Setting,
    program::Program,
    report::{Check, Outcome, Plot, Table, median, ratio, size},
};
use crate::workload::Shape;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Pages that the plain loop reads at once.
const PLAIN_PAGES: u64 = 256;

/// Acceptance: part of the plain loop's rate.
const SHARE: f64 = 0.8;

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// Threads of both contestants [default: one for each processor]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    readers: Option<u16>,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// What is captured, and by how many.
#[derive(Debug)]
struct Target {
    memory: Arc<RemoteMemory>,
    runs: Vec<PageRun>,
    bytes: u64,
    threads: usize,
}

impl Capture {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(self.shape.arguments());
        let mut workload = Program::start(&mut command)?;
        workload.wait_for("ready", LIMIT).await?;
        let target = Arc::new(self.target(workload.pid()?)?);
        let options = lifeboat_store::Options {
            allow_null: true,
            ..lifeboat_store::Options::default()
        };
        let store = lifeboat_store::open("null:capture", &options).await?;
        let (mut plain, mut captured) = (Vec::new(), Vec::new());
        // The first time, buffers and page tables are cold for whoever begins.
        target.plain().await?;
        for round in 0..self.rounds {
            if round % 2 == 0 {
                plain.push(target.plain().await?);
                captured.push(target.capture(&store).await?);
            } else {
                captured.push(target.capture(&store).await?);
                plain.push(target.plain().await?);
            }
        }
        workload.terminate().await?;
        bench.print(outcome(&target, &plain, &captured))?;
        Ok(ExitCode::SUCCESS)
    }

    fn target(&self, pid: Pid) -> anyhow::Result<Target> {
        let pagemap = Pagemap::open(pid)?;
        let mut runs = Vec::new();
        for mapping in maps::read(pid)? {
            if mapping.is_private_anonymous() {
                pagemap.scan(mapping.run, &Query::DUMPABLE, |region| {
                    runs.push(region.run);
                })?;
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Target {
            memory: Arc::new(RemoteMemory::open(pid)?),
            bytes: runs.iter().map(|run| run.bytes()).sum(),
            runs,
            threads: self.readers.map_or(processors, usize::from),
        })
    }
}

impl Target {
    /// Nothing but reading; in microseconds.
    async fn plain(self: &Arc<Self>) -> anyhow::Result<u64> {
        let pieces: Vec<PageRun> = self.runs.iter().flat_map(|run| cut(*run)).collect();
        let (pieces, next) = (Arc::new(pieces), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        let readers: Vec<_> = (0..self.threads)
            .map(|_| {
                let (this, pieces, next) =
                    (Arc::clone(self), Arc::clone(&pieces), Arc::clone(&next));
                tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; usize::try_from(PLAIN_PAGES)? * PAGE_BYTES];
                    while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let buffer = &mut buffer[..usize::try_from(piece.bytes())?];
                        this.memory.read_runs(&[*piece], buffer)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for reader in readers {
            reader.await??;
        }
        Ok(micros(began))
    }

    /// The pipeline; in microseconds.
    async fn capture(&self, store: &Arc<dyn Store>) -> anyhow::Result<u64> {
        let options = PipelineOptions {
            threads: self.threads,
            uploads: 6,
            effort: Some(Effort::None),
            purpose: Purpose::Soon,
            rates: Arc::new(Rates::new(self.threads)),
            buffers: None,
            seal: Arc::new(Seal::plain()),
            origin: PackOrigin {
                workload: "capture".parse::<WorkloadName>()?,
                epoch: Epoch(1),
                sequence: 0,
            },
            call: Call::within(LIMIT),
        };
        let began = Instant::now();
        let pipeline = Pipeline::start(Arc::clone(store), &options)?;
        let source = Source::Process {
            pid: self.memory.pid().as_raw_nonzero().get().unsigned_abs(),
            memory: Arc::clone(&self.memory),
        };
        let memory = Memory {
            space: 0,
            source: &source,
            runs: &self.runs,
            may_vanish: false,
        };
        memory
            .feed(&pipeline.intake(), None::<fn(PageIndex) -> _>)
            .await?;
        let captured = pipeline.finish().await?;
        let took = micros(began);
        let frames = self.bytes.div_ceil((FRAME_PAGES_MAX * PAGE_BYTES) as u64);
        anyhow::ensure!(
            captured.frames.len() as u64 <= frames,
            "{} frames for {frames}",
            captured.frames.len()
        );
        Ok(took)
    }
}

/// Pieces of a run that fit into the plain loop's buffer.
fn cut(run: PageRun) -> impl Iterator<Item = PageRun> {
    let count = run.pages.div_ceil(PLAIN_PAGES);
    (0..count).map(move |index| {
        let done = index * PLAIN_PAGES;
        PageRun::new(run.start + done, PLAIN_PAGES.min(run.pages - done))
    })
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn outcome(target: &Target, plain: &[u64], captured: &[u64]) -> Outcome {
    // Bytes in a microsecond are megabytes in a second.
    let rate = |all: &[u64]| ratio(target.bytes, median(all.to_vec()));
    let share = rate(captured) / rate(plain).max(1.0);
    let mut table = Table::new(&["capture", "MB/s"]);
    let bars = [
        ("process_vm_readv alone".to_owned(), rate(plain)),
        ("read, frame, null store".to_owned(), rate(captured)),
    ];
    for (what, rate) in &bars {
        table.row([what.clone(), format!("{rate:.0}")]);
    }
    Outcome {
        scenario: "capture",
        table,
        figures: json!({
            "bytes": target.bytes,
            "threads": target.threads,
            "plain_us": plain,
            "captured_us": captured,
            "plain_mb_per_s": rate(plain),
            "captured_mb_per_s": rate(captured),
            "share": share,
        }),
        checks: vec![Check::at_least(
            "rate of the capture to that of process_vm_readv",
            share,
            SHARE,
        )],
        plots: vec![Plot::new(
            format!(
                "Raw capture of {}, {} threads",
                size(target.bytes),
                target.threads
            ),
            "MB/s",
            bars,
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_run() {
        let run = PageRun::new(PageIndex(7), PLAIN_PAGES * 2 + 5);
        let pieces: Vec<PageRun> = cut(run).collect();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[2], PageRun::new(PageIndex(7 + PLAIN_PAGES * 2), 5));
        assert_eq!(cut(PageRun::new(PageIndex(0), 0)).count(), 0);
    }
}
