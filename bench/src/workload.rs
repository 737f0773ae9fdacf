//! A program with as much memory as one likes, which changes it as fast as one likes, and which
//! notices if a single byte is not what it should be.
//!
//! Says `ready` when its memory is filled, `tick N` every [`TICK`], and `verified BYTES` when it was
//! told `verify` on standard input and has compared every page. Ends when standard input does; with
//! exit code 1 when a page is wrong.

mod memory;
mod processes;

use std::{
    io::BufRead as _,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Args;

use memory::Part;
use processes::Children;

/// Time between signs of life.
const TICK: Duration = Duration::from_millis(20);

/// Time between turns of a thread that changes memory.
const TURN: Duration = Duration::from_millis(10);

/// Commands waiting for a thread or a process.
const QUEUED_COMMANDS: usize = 16;

/// What the program is like.
#[derive(Clone, Debug, Args)]
pub(crate) struct Shape {
    /// Memory in all
    #[arg(long, default_value = "1GiB")]
    pub(crate) size: ByteSize,
    /// Memory that changes in a second, in all
    #[arg(long, default_value = "0B")]
    pub(crate) dirty_rate: ByteSize,
    /// Part of the memory, in percent, that changes at all
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) hot: u8,
    /// Part of each page, in percent, that does not compress
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) entropy: u8,
    /// Threads of each process that change memory
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) processes: u16,
}

impl Shape {
    /// The command line of such a program.
    pub(crate) fn command_line(&self, command: &mut tokio::process::Command) -> anyhow::Result<()> {
        command.arg(std::env::current_exe().context("find this program")?);
        command.args(self.arguments());
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let bytes = |size: ByteSize| format!("{}B", size.as_u64());
        let pairs = [
            ("--size", bytes(self.size)),
            ("--dirty-rate", bytes(self.dirty_rate)),
            ("--hot", self.hot.to_string()),
            ("--entropy", self.entropy.to_string()),
            ("--threads", self.threads.to_string()),
            ("--processes", self.processes.to_string()),
        ];
        let pairs = pairs
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("workload".to_owned())
            .chain(pairs)
            .collect()
    }

    /// The part of one process.
    fn of_one_process(&self) -> Self {
        let share = |all: ByteSize| ByteSize(all.as_u64() / u64::from(self.processes));
        Self {
            size: share(self.size),
            dirty_rate: share(self.dirty_rate),
            processes: 1,
            ..self.clone()
        }
    }
}

/// What a thread tells.
#[derive(Debug)]
enum Told {
    Ready,
    Verified(u64),
    Wrong(String),
    Command(String),
    Closed,
}

/// Runs until standard input ends.
pub(crate) fn run(shape: &Shape) -> anyhow::Result<ExitCode> {
    let (report, told) = mpsc::sync_channel(QUEUED_COMMANDS);
    let mut children = Children::start(shape, &report)?;
    let own = shape.of_one_process();
    let mut threads = Vec::new();
    for index in 0..own.threads {
        let (order, orders) = mpsc::sync_channel(QUEUED_COMMANDS);
        let (shape, report) = (own.clone(), report.clone());
        thread::Builder::new()
            .name(format!("memory-{index}"))
            .spawn(move || work(&shape, index, &orders, &report))
            .context("start a thread")?;
        threads.push(order);
    }
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || listen(&report))
        .context("start a thread")?;
    Ok(converse(&told, &threads, &mut children))
}

/// Passes commands on and collects the answers.
#[expect(clippy::print_stdout, reason = "this is the result")]
fn converse(
    told: &Receiver<Told>,
    threads: &[SyncSender<()>],
    children: &mut Children,
) -> ExitCode {
    let parts = threads.len() + children.len();
    let (mut ready, mut verified, mut bytes) = (0, 0, 0);
    let mut ticks: u64 = 0;
    let mut next = Instant::now() + TICK;
    loop {
        match told.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + TICK;
                if ready == parts {
                    ticks += 1;
                    println!("tick {ticks}");
                }
            }
            Ok(Told::Ready) => {
                ready += 1;
                if ready == parts {
                    println!("ready");
                }
            }
            Ok(Told::Verified(part)) => {
                verified += 1;
                bytes += part;
                if verified == parts {
                    println!("verified {bytes}");
                    (verified, bytes) = (0, 0);
                }
            }
            Ok(Told::Wrong(what)) => {
                println!("wrong {what}");
                return ExitCode::FAILURE;
            }
            Ok(Told::Command(command)) if command == "verify" => {
                children.tell("verify");
                for thread in threads {
                    if thread.send(()).is_err() {
                        // It has ended, and told why.
                        continue;
                    }
                }
            }
            Ok(Told::Command(_)) => {}
            Ok(Told::Closed) | Err(RecvTimeoutError::Disconnected) => return ExitCode::SUCCESS,
        }
    }
}

fn listen(report: &SyncSender<Told>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if report.send(Told::Command(line)).is_err() {
            return;
        }
    }
    // Nobody listens when the program is ending already.
    drop(report.send(Told::Closed));
}

/// One thread: fills its part of the memory, then changes and verifies it.
fn work(shape: &Shape, index: u16, orders: &Receiver<()>, report: &SyncSender<Told>) {
    let threads = u64::from(shape.threads);
    let mut part = Part::fill(
        u64::from(index),
        shape.size.as_u64() / threads,
        shape.entropy,
    );
    let hot = part.pages() * usize::from(shape.hot) / 100;
    let rate = shape.dirty_rate.as_u64() / threads;
    let mut told = report.send(Told::Ready);
    let mut last = Instant::now();
    let mut owed = 0.0;
    while told.is_ok() {
        let turn = if rate == 0 {
            Duration::from_secs(3600)
        } else {
            TURN
        };
        match orders.recv_timeout(turn) {
            Ok(()) => {
                told = report.send(match part.verify() {
                    Ok(bytes) => Told::Verified(bytes),
                    Err(wrong) => Told::Wrong(wrong),
                });
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                owed += last.elapsed().min(TURN * 4).as_secs_f64() * ByteSize(rate).as_u64() as f64;
                last = Instant::now();
                while owed >= memory::PAGE_BYTES as f64 && hot > 0 {
                    owed -= memory::PAGE_BYTES as f64;
                    if let Err(wrong) = part.change_one(hot) {
                        told = report.send(Told::Wrong(wrong));
                        break;
                    }
                }
            }
        }
    }
}
