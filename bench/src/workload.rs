//! A program with as much memory as one likes, which changes it as fast as one likes, and which
//! notices if a single byte is not what it should be.
//!
//! Says `ready` when its memory is filled, and `tick N` every [`TICK`]. It obeys lines on standard
//! input, and answers when all threads and processes have done it:
//!
//! | Line | Answer |
//! |---|---|
//! | `verify` | `verified BYTES 0`: every page was compared |
//! | `dirty BYTES` | `dirtied PAGES 0`: so many random pages have changed once |
//! | `rewrite BYTES` | `rewritten PAGES 0`: so many random pages were written with what they held |
//! | `measure BYTES` | `measured COMPRESSED 0`: size of so many random pages after compression |
//! | `count` | `counted CHANGES 0`: changes of pages by the dirty rate until now |
//!
//! Ends when standard input does; with exit code 1 when a page is wrong.

mod locality;
mod memory;
mod processes;
mod shape;
mod thread;

use std::{
    io::BufRead as _,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread as threads,
    time::{Duration, Instant},
};

use anyhow::Context as _;

pub(crate) use locality::{Locality, mixed};
use processes::Children;
pub(crate) use shape::Shape;

/// Time between signs of life.
const TICK: Duration = Duration::from_millis(20);

/// Commands waiting for a thread or a process.
const QUEUED_COMMANDS: usize = 16;

/// What a thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Verify,
    Count,
    /// Compress random pages.
    Measure {
        bytes: u64,
    },
    /// Change random pages; with `same`, write what is there.
    Dirty {
        bytes: u64,
        same: bool,
    },
}

/// What is answered, of a part or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    word: String,
    figures: [u64; 2],
}

/// What a thread tells.
#[derive(Debug)]
enum Told {
    Ready,
    Answer(Answer),
    Wrong(String),
    Command(String),
    Closed,
}

impl Order {
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let dirty = |same| rest.parse().ok().map(|bytes| Self::Dirty { bytes, same });
        match word {
            "verify" => Some(Self::Verify),
            "count" => Some(Self::Count),
            "measure" => rest.parse().ok().map(|bytes| Self::Measure { bytes }),
            "dirty" => dirty(false),
            "rewrite" => dirty(true),
            _ => None,
        }
    }

    /// The part of one of `parts`.
    fn shared_by(self, parts: u64) -> Self {
        match self {
            Self::Dirty { bytes, same } => Self::Dirty {
                bytes: bytes / parts,
                same,
            },
            Self::Measure { bytes } => Self::Measure {
                bytes: bytes / parts,
            },
            other => other,
        }
    }

    fn line(self) -> String {
        match self {
            Self::Verify => "verify".to_owned(),
            Self::Count => "count".to_owned(),
            Self::Measure { bytes } => format!("measure {bytes}"),
            Self::Dirty { bytes, same: false } => format!("dirty {bytes}"),
            Self::Dirty { bytes, same: true } => format!("rewrite {bytes}"),
        }
    }
}

impl Answer {
    fn new(word: &str, figures: [u64; 2]) -> Self {
        Self {
            word: word.to_owned(),
            figures,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let mut figure = || words.next()?.parse().ok();
        Some(Self::new(word, [figure()?, figure()?]))
    }
}

/// Runs until standard input ends.
pub(crate) fn run(shape: &Shape) -> anyhow::Result<ExitCode> {
    let (report, told) = mpsc::sync_channel(QUEUED_COMMANDS);
    let mut children = Children::start(shape, &report)?;
    let own = shape.of_one_process();
    let mut workers = Vec::new();
    for index in 0..own.threads {
        let (order, orders) = mpsc::sync_channel(QUEUED_COMMANDS);
        let (shape, report) = (own.clone(), report.clone());
        threads::Builder::new()
            .name(format!("memory-{index}"))
            .spawn(move || thread::work(&shape, index, &orders, &report))
            .context("start a thread")?;
        workers.push(order);
    }
    threads::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || listen(&report))
        .context("start a thread")?;
    Ok(converse(&told, &workers, &mut children))
}

/// Passes commands on and collects the answers.
#[expect(clippy::print_stdout, reason = "this is the result")]
fn converse(
    told: &Receiver<Told>,
    workers: &[SyncSender<Order>],
    children: &mut Children,
) -> ExitCode {
    let parts = workers.len() + children.len();
    let (mut ready, mut answered, mut figures) = (0, 0, [0, 0]);
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
            Ok(Told::Answer(answer)) => {
                answered += 1;
                figures = [0, 1].map(|one| figures[one] + answer.figures[one]);
                if answered == parts {
                    println!("{} {} {}", answer.word, figures[0], figures[1]);
                    (answered, figures) = (0, [0, 0]);
                }
            }
            Ok(Told::Wrong(what)) => {
                println!("wrong {what}");
                return ExitCode::FAILURE;
            }
            Ok(Told::Command(command)) => {
                if let Some(order) = Order::parse(&command) {
                    pass_on(order, workers, children);
                }
            }
            Ok(Told::Closed) | Err(RecvTimeoutError::Disconnected) => return ExitCode::SUCCESS,
        }
    }
}

fn pass_on(order: Order, workers: &[SyncSender<Order>], children: &mut Children) {
    let of_process = order.shared_by(children.len() as u64 + 1);
    children.tell(&of_process.line());
    for worker in workers {
        let order = of_process.shared_by(workers.len() as u64);
        if worker.send(order).is_err() {
            // It has ended, and told why.
            continue;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_are_read_as_they_are_written() {
        for order in [
            Order::Verify,
            Order::Count,
            Order::Dirty {
                bytes: 77,
                same: true,
            },
            Order::Dirty {
                bytes: 1 << 40,
                same: false,
            },
        ] {
            assert_eq!(Order::parse(&order.line()), Some(order));
        }
        assert_eq!(Order::parse("dirty much"), None);
        assert_eq!(
            Answer::parse("dirtied 3 4"),
            Some(Answer::new("dirtied", [3, 4]))
        );
        assert_eq!(Answer::parse("ready"), None);
    }
}
