//! The fetcher: a task that decides what to fetch next, and the fetches it starts.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    Arrived, LoadError, Urgency, budget::Permit, load::Load, plan::BATCH_BYTES_MAX, ready::Item,
    sync::lock,
};

/// Most fetches at one time that a fault waits for.
const DEMAND_FETCHES_MAX: usize = 64;

/// Most fetches at one time ahead of demand.
const PREFETCH_FETCHES_MAX: usize = 16;

/// How soon the fetcher looks again when nobody tells it anything.
const TICK: Duration = Duration::from_millis(50);

/// The same while a fault waits for what is being fetched ahead of demand.
const TICK_LATE: Duration = Duration::from_millis(5);

/// Frames to be fetched with one request.
#[derive(Debug)]
struct Job {
    frames: Vec<(u32, Permit)>,
    urgency: Urgency,
    /// By the source itself, which reads again what is not what was written.
    verified: bool,
}

/// Fetches under way.
#[derive(Debug, Default)]
struct Fetcher {
    tasks: JoinSet<Urgency>,
    demand: usize,
    prefetch: usize,
}

/// Runs until the load is over. Fetches that are under way then are given up.
pub(crate) async fn run(load: Arc<Load>) {
    let mut fetcher = Fetcher::default();
    while !load.is_over() {
        while let Some(done) = fetcher.tasks.try_join_next() {
            fetcher.ended(&load, done);
        }
        if let Some(job) = fetcher.next(&load) {
            match job.urgency {
                Urgency::Demand => fetcher.demand += 1,
                Urgency::Prefetch => fetcher.prefetch += 1,
            }
            fetcher.tasks.spawn(fetch(Arc::clone(&load), job));
            continue;
        }
        let tick = if lock(&load.frames).is_late() {
            TICK_LATE
        } else {
            TICK
        };
        tokio::select! {
            () = load.fetcher.notified() => {}
            Some(done) = fetcher.tasks.join_next() => fetcher.ended(&load, done),
            () = tokio::time::sleep(tick) => {}
        }
    }
}

impl Fetcher {
    fn ended(&mut self, load: &Load, done: Result<Urgency, tokio::task::JoinError>) {
        match done {
            Ok(Urgency::Demand) => self.demand -= 1,
            Ok(Urgency::Prefetch) => self.prefetch -= 1,
            Err(error) if error.is_panic() => load.fail(LoadError::Panicked { who: "fetch" }),
            Err(_) => {}
        }
    }

    /// What to do next, if there is something and room for it.
    fn next(&self, load: &Load) -> Option<Job> {
        if self.demand < DEMAND_FETCHES_MAX
            && let Some(job) = next_demand(load)
        {
            return Some(job);
        }
        let paused = load.paused.load(Relaxed) > 0 || !load.all_added.load(Relaxed);
        if paused || self.prefetch >= PREFETCH_FETCHES_MAX || lock(&load.frames).is_asked() {
            return None;
        }
        let job = next_prefetch(load);
        if job.is_none() && self.demand + self.prefetch == 0 && load.budget.used() == 0 {
            let mut plan = lock(&load.plan);
            if plan.is_through() {
                // Something is still missing: it was forked or put off meanwhile.
                plan.again();
            }
        }
        job
    }
}

fn next_demand(load: &Load) -> Option<Job> {
    let damaged = lock(&load.frames).next_damaged();
    if let Some(frame) = damaged {
        // It was in memory before: there is room.
        let permit = load
            .budget
            .take_always(load.bytes_of(frame), Urgency::Demand);
        let frames = vec![(frame, permit)];
        return Some(Job {
            frames,
            urgency: Urgency::Demand,
            verified: true,
        });
    }
    let patience = lock(&load.plan).patience();
    loop {
        let mut frames = lock(&load.frames);
        let Some(frame) = frames.next_asked() else {
            let frame = frames.next_late(patience)?;
            let permit = load.budget.take(load.bytes_of(frame), Urgency::Demand)?;
            return Some(Job {
                frames: vec![(frame, permit)],
                urgency: Urgency::Demand,
                verified: false,
            });
        };
        if !load.wants(frame, Urgency::Demand) {
            frames.dropped(frame);
            continue;
        }
        let Some(permit) = load.budget.take(load.bytes_of(frame), Urgency::Demand) else {
            frames.ask_first(frame);
            return None;
        };
        return Some(Job {
            frames: vec![(frame, permit)],
            urgency: Urgency::Demand,
            verified: false,
        });
    }
}

fn next_prefetch(load: &Load) -> Option<Job> {
    let in_flight = load.budget.prefetch();
    let batch = {
        let mut plan = lock(&load.plan);
        let room = plan.window().saturating_sub(in_flight);
        // Half of the window at most, so that one request is on its way while another is installed.
        let most = (plan.window() / 2).clamp(1, BATCH_BYTES_MAX);
        if room < most {
            return None;
        }
        let frames = &load.frames;
        let wanted = |frame| lock(frames).is_idle(frame) && load.wants(frame, Urgency::Prefetch);
        plan.next(most, |frame| load.bytes_of(frame), wanted)
    };
    let mut taken = Vec::with_capacity(batch.len());
    for frame in batch {
        let Some(permit) = load.budget.take(load.bytes_of(frame), Urgency::Prefetch) else {
            // Taken up again when all was fetched once.
            continue;
        };
        let mut frames = lock(&load.frames);
        if frames.is_idle(frame) {
            frames.prefetching(frame);
            taken.push((frame, permit));
        }
    }
    (!taken.is_empty()).then_some(Job {
        frames: taken,
        urgency: Urgency::Prefetch,
        verified: false,
    })
}

async fn fetch(load: Arc<Load>, job: Job) -> Urgency {
    let Job {
        frames,
        urgency,
        verified,
    } = job;
    let numbers: Vec<u32> = frames.iter().map(|(frame, _)| *frame).collect();
    let bytes: u64 = numbers.iter().map(|frame| load.bytes_of(*frame)).sum();
    let began = Instant::now();
    let answer = if verified {
        let answer = load.source.fetch(&numbers, urgency).await;
        answer.map(|frames| frames.into_iter().map(Arrived::verified).collect())
    } else {
        load.source.fetch_unverified(&numbers, urgency).await
    };
    match answer {
        Ok(contents) if contents.len() == numbers.len() => {
            let took = began.elapsed();
            for ((frame, permit), content) in frames.into_iter().zip(contents) {
                load.came(Item {
                    frame,
                    content,
                    permit,
                });
            }
            let mut plan = lock(&load.plan);
            match urgency {
                Urgency::Demand => plan.demand_took(took),
                Urgency::Prefetch if lock(&load.frames).is_asked() => {}
                Urgency::Prefetch => plan.undisturbed(bytes / 4),
            }
        }
        Ok(contents) => {
            load.fail(LoadError::Answer {
                asked: numbers.len(),
                found: contents.len(),
            });
        }
        Err(error) => load.fail(LoadError::Fetch(Arc::new(error))),
    }
    urgency
}
