//! One thread of the program: its own private and shared memory, changed at its own rate.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender},
    time::{Duration, Instant},
};

use super::{
    Answer, Order, Shape, Told,
    memory::{Content, PAGE_BYTES, Part},
};

/// Time between turns of a thread that changes memory.
const TURN: Duration = Duration::from_millis(10);

/// Time between turns of one that does not.
const IDLE: Duration = Duration::from_secs(3600);

/// Changes between looks at the clock.
const AT_ONCE: u64 = 64;

/// The memory of a thread, and what it has done to it.
#[derive(Debug)]
struct Memory {
    parts: Vec<Part>,
    hot: Vec<usize>,
    changed: u64,
}

/// Fills the thread's part of the memory, then changes and verifies it until nobody listens.
pub(super) fn work(shape: &Shape, index: u16, orders: &Receiver<Order>, report: &SyncSender<Told>) {
    let mut memory = match Memory::fill(shape, index) {
        Ok(memory) => memory,
        Err(error) => {
            // Nobody listens when the program is ending already.
            drop(report.send(Told::Wrong(format!("no memory: {error}"))));
            return;
        }
    };
    let rate = shape.dirty_rate.as_u64() / u64::from(shape.threads);
    let mut told = report.send(Told::Ready);
    let mut last = Instant::now();
    let mut owed = 0.0;
    while told.is_ok() {
        let turn = match rate {
            0 => IDLE,
            _ if owed >= PAGE_BYTES as f64 => Duration::ZERO,
            _ => TURN,
        };
        match orders.recv_timeout(turn) {
            Ok(order) => {
                told = report.send(memory.obey(order).map_or_else(Told::Wrong, Told::Answer));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let allowed = last.elapsed().min(TURN * 4).as_secs_f64() * rate as f64;
                owed += allowed;
                last = Instant::now();
                if let Err(wrong) = memory.change(&mut owed, last, shape) {
                    told = report.send(Told::Wrong(wrong));
                }
            }
        }
    }
}

impl Memory {
    fn fill(shape: &Shape, index: u16) -> std::io::Result<Self> {
        let size = shape.size.as_u64() / u64::from(shape.threads);
        let shared = size / 100 * u64::from(shape.shared);
        let content = |seed| Content {
            seed,
            entropy: shape.entropy,
            touch: shape.touch,
        };
        let seed = u64::from(index) * 2;
        let parts = vec![
            Part::fill(content(seed), size - shared, false)?,
            Part::fill(content(seed + 1), shared, true)?,
        ];
        let hot = parts
            .iter()
            .map(|part| part.pages() * usize::from(shape.hot) / 100)
            .collect();
        Ok(Self {
            parts,
            hot,
            changed: 0,
        })
    }

    /// Changes as much as is owed, until the next turn.
    fn change(&mut self, owed: &mut f64, began: Instant, shape: &Shape) -> Result<(), String> {
        let all: usize = self.hot.iter().sum();
        while *owed >= PAGE_BYTES as f64 && all > 0 && began.elapsed() < TURN {
            for _ in 0..AT_ONCE {
                if *owed < PAGE_BYTES as f64 {
                    break;
                }
                *owed -= PAGE_BYTES as f64;
                self.changed += 1;
                // Each part has its share of the changes, by its size.
                let place = usize::try_from(self.changed).unwrap_or(0) % 100;
                let part = usize::from(place * all < self.hot[1] * 100);
                self.parts[part].change_one(self.hot[part], shape.locality)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<Answer, String> {
        let share = |part: &Part, bytes: u64, all: usize| {
            let share = u128::from(bytes) * part.pages() as u128 / all.max(1) as u128;
            u64::try_from(share).unwrap_or(bytes)
        };
        let all: usize = self.parts.iter().map(Part::pages).sum();
        match order {
            Order::Verify => {
                let sizes = self.parts.iter().map(Part::verify);
                let bytes: u64 = sizes.sum::<Result<u64, String>>()?;
                Ok(Answer::new("verified", [bytes, 0]))
            }
            Order::Measure { bytes } => {
                let parts = self.parts.iter_mut();
                let sizes = parts.map(|part| part.compressed(share(part, bytes, all)));
                Ok(Answer::new("measured", [sizes.sum(), 0]))
            }
            Order::Count => Ok(Answer::new("counted", [self.changed, 0])),
            Order::Dirty { bytes, same } => {
                let parts = self.parts.iter_mut();
                let pages = parts.map(|part| part.change_many(share(part, bytes, all), same));
                let word = if same { "rewritten" } else { "dirtied" };
                Ok(Answer::new(word, [pages.sum(), 0]))
            }
        }
    }
}
