//! A batch: some of what is pending goes to the store. What was acknowledged is in the books when it
//! ends; the rest is pending again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_proto::units::PAGE_SIZE;
use lifeboat_store::Call;
use lifeboat_track::{Runs, SpaceId};

use super::{AheadError, SharedAhead, lock};
use crate::{
    daemon::Context,
    pipeline::{
        Captured, Intake, Memory, Pipeline, PipelineError, PipelineOptions, Purpose, Source,
    },
    workload::tree,
};

/// Longest time that the store may take for a pack that nobody waits for.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(60);

/// How a batch works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Most pages.
    pub pages: u64,
    /// Whether it stands back.
    pub background: bool,
    /// Until when it must be done, if there is a deadline.
    pub end: Option<Instant>,
}

/// What a batch has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Bytes sent to the store.
    pub sent_bytes: u64,
    /// Time it took.
    pub took: Duration,
}

/// Why a batch failed. Nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The books are worthless.
    #[error("keep the books of what is saved")]
    Ahead(#[source] AheadError),
    /// What was read could not be stored.
    #[error("store memory ahead of time")]
    Pipeline(#[source] PipelineError),
}

/// A part of an address space on its way.
#[derive(Debug)]
struct Part {
    space: SpaceId,
    source: Source,
    runs: Runs,
    /// What is stored of it is compared with what is there.
    is_check: bool,
}

/// Sends a batch. `None`: nothing is pending.
pub(super) async fn send(
    context: &Context,
    ahead: &SharedAhead,
    root_pid: u32,
    options: Options,
) -> Result<Option<Done>, BatchError> {
    let inner: BTreeMap<u32, u32> = tree::by_inner_pid(root_pid)
        .unwrap_or_default()
        .into_iter()
        .map(|(inner, pid)| (pid, inner))
        .collect();
    let parts = take(ahead, options.pages, &inner);
    if parts.is_empty() {
        return Ok(None);
    }
    let began = Instant::now();
    match run(context, ahead, &parts, options).await {
        Ok((captured, sent_bytes)) => {
            let mut books = lock(ahead);
            let spaces: Vec<Option<SpaceId>> = parts.iter().map(|part| Some(part.space)).collect();
            books.enter(&captured, &spaces).map_err(BatchError::Ahead)?;
            for part in &parts {
                if let Some(saved) = books.spaces.get_mut(&part.space) {
                    saved.captured(&part.runs);
                }
            }
            for (index, run) in &captured.left_out.lost {
                if let Some(saved) = books.spaces.get_mut(&parts[*index].space) {
                    saved.lose(*run);
                }
            }
            let sent = parts.iter().filter(|part| !part.is_check);
            let read_bytes: u64 = sent.map(|part| part.runs.pages()).sum::<u64>() * PAGE_SIZE;
            let took = began.elapsed();
            // Comparing says nothing of the store's pace.
            if parts.iter().all(|part| !part.is_check) {
                books.note_rate(read_bytes, took);
            }
            Ok(Some(Done { sent_bytes, took }))
        }
        Err(error) => {
            let mut books = lock(ahead);
            for part in &parts {
                match books.spaces.get_mut(&part.space) {
                    Some(saved) if part.is_check => saved.put_back_unchecked(&part.runs),
                    Some(saved) => saved.put_back(&part.runs),
                    None => {}
                }
            }
            Err(BatchError::Pipeline(error))
        }
    }
}

/// Takes what is to be sent, a little of each address space in turn.
fn take(ahead: &SharedAhead, pages: u64, inner: &BTreeMap<u32, u32>) -> Vec<Part> {
    let mut books = lock(ahead);
    let mut left = pages;
    let mut parts = Vec::new();
    for is_check in [false, true] {
        for (space, saved) in &mut books.spaces {
            let wanted = if is_check {
                &saved.unchecked
            } else {
                &saved.pending
            };
            if left == 0 || wanted.is_empty() {
                continue;
            }
            // One that is gone is found in the next round.
            let Ok(source) = saved.source(inner) else {
                continue;
            };
            let runs = if is_check {
                saved.take_unchecked(left)
            } else {
                saved.take_pending(left)
            };
            left -= runs.pages();
            parts.push(Part {
                space: *space,
                source,
                runs,
                is_check,
            });
        }
    }
    parts
}

async fn run(
    context: &Context,
    ahead: &SharedAhead,
    parts: &[Part],
    options: Options,
) -> Result<(Captured, u64), PipelineError> {
    let save = &context.config.save;
    let call = match options.end {
        Some(end) => Call::by(end),
        None => Call::within(BACKGROUND_PATIENCE),
    };
    let pipeline = Pipeline::start(
        Arc::clone(&context.store),
        &PipelineOptions {
            threads: if options.background { 1 } else { save.threads },
            uploads: save.uploads,
            effort: save.effort.into(),
            purpose: if options.background {
                Purpose::Ahead
            } else {
                Purpose::Soon
            },
            rates: Arc::clone(&context.rates),
            buffers: None,
            seal: Arc::clone(&context.seal),
            origin: lock(ahead).origin(),
            call,
        },
    )?;
    let figures = Arc::clone(pipeline.figures());
    let fed = feed(ahead, parts, pipeline.intake()).await;
    let captured = pipeline.finish().await?;
    fed?;
    let sent = figures
        .uploaded_bytes
        .load(std::sync::atomic::Ordering::Relaxed);
    Ok((captured, sent))
}

async fn feed(ahead: &SharedAhead, parts: &[Part], intake: Intake) -> Result<(), PipelineError> {
    for (index, part) in parts.iter().enumerate() {
        let memory = Memory {
            space: index,
            source: &part.source,
            runs: part.runs.as_slice(),
            may_vanish: true,
        };
        let known = |page| lock(ahead).hash(part.space, page);
        memory.feed(&intake, Some(known)).await?;
    }
    Ok(())
}
