//! The stage that reads memory and encodes it: OS threads, each with its own buffers and codec.
//!
//! Reading and encoding happen on one thread, so that the bytes are still in its cache. Zero pages
//! are left out: a captured page that no run mentions is zero (`lifeboat.image.v1.AddressSpace`).

use std::{sync::Arc, time::Instant};

use async_channel::{Receiver, Sender};
use lifeboat_format::{
    codec::{Effort, Encoder, is_zero_page},
    owner::FrameOwner,
    seal::Seal,
};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_sys::vm::RemoteMemory;

use super::pipeline::{Encoded, Failure, Figures, Job, PipelineError, Target};

/// What one encode thread works with.
#[derive(Debug)]
pub(super) struct Stage {
    pub jobs: Receiver<Job>,
    pub frames: Sender<Encoded>,
    pub figures: Arc<Figures>,
    pub failure: Arc<Failure>,
    pub effort: Effort,
    pub seal: Arc<Seal>,
    pub started: Instant,
}

impl Stage {
    /// Works until the queue of jobs is closed, or something has failed anywhere.
    pub(super) fn run(self) {
        let mut encoder = Encoder::new();
        let mut buffer = Vec::new();
        while let Ok(job) = self.jobs.recv_blocking() {
            if self.failure.is_set() {
                break;
            }
            match self.encode(job, &mut encoder, &mut buffer) {
                Ok(None) => {}
                Ok(Some(encoded)) => {
                    if self.frames.send_blocking(encoded).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    self.failure.set(error);
                    break;
                }
            }
        }
        // Nobody may go on to queue work that is not going to be done.
        if self.failure.is_set() || self.frames.is_closed() {
            self.jobs.close();
        }
    }

    fn encode(
        &self,
        job: Job,
        encoder: &mut Encoder,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Encoded>, PipelineError> {
        let (target, owner) = match job {
            Job::Memory {
                space,
                pid,
                memory,
                runs,
            } => {
                let runs = self
                    .read(&memory, &runs, buffer)
                    .map_err(|source| PipelineError::Read { pid, source })?;
                if runs.is_empty() {
                    return Ok(None);
                }
                (
                    Target::Space(space, runs.clone()),
                    FrameOwner::Memory { pid, runs },
                )
            }
            Job::Stream {
                stream,
                sequence,
                owner,
                content,
            } => {
                buffer.clear();
                buffer.extend_from_slice(&content);
                (Target::Stream { stream, sequence }, owner)
            }
        };
        let mut payload = Vec::with_capacity(buffer.len());
        let codec = encoder.encode(buffer, self.effort, &mut payload);
        payload.shrink_to_fit();
        let digest = self.seal.frame_digest(&payload);
        Ok(Some(Encoded {
            target,
            owner,
            payload,
            codec,
            digest,
            raw_bytes: buffer.len(),
        }))
    }

    /// Reads `runs` into `buffer` and takes the zero pages out; returns the runs that are left.
    fn read(
        &self,
        memory: &RemoteMemory,
        runs: &[PageRun],
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<PageRun>, lifeboat_sys::vm::VmError> {
        let pages: usize = runs
            .iter()
            .map(|run| usize::try_from(run.pages).unwrap_or(0))
            .sum();
        buffer.resize(pages * PAGE_BYTES, 0);
        memory.read_runs(runs, buffer)?;
        self.figures.note_read(buffer.len() as u64, self.started);
        Ok(drop_zero_pages(runs, buffer))
    }
}

/// Moves the pages that are not zero to the front of `buffer`, cuts it there, and returns their
/// runs.
fn drop_zero_pages(runs: &[PageRun], buffer: &mut Vec<u8>) -> Vec<PageRun> {
    let mut kept: Vec<PageRun> = Vec::with_capacity(runs.len());
    let mut written = 0;
    let pages = runs
        .iter()
        .flat_map(|run| (run.start.0..run.end().0).map(PageIndex));
    for (index, page) in pages.enumerate() {
        let begin = index * PAGE_BYTES;
        let (content, _) = buffer[begin..]
            .split_first_chunk()
            .expect("the buffer has all pages");
        if is_zero_page(content) {
            continue;
        }
        buffer.copy_within(begin..begin + PAGE_BYTES, written);
        written += PAGE_BYTES;
        match kept.last_mut() {
            Some(last) if last.end() == page => last.pages += 1,
            _ => kept.push(PageRun::new(page, 1)),
        }
    }
    buffer.truncate(written);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_with_content_are_kept() {
        let runs = [
            PageRun::new(PageIndex(10), 3),
            PageRun::new(PageIndex(20), 2),
        ];
        let mut buffer = vec![0; 5 * PAGE_BYTES];
        buffer[0] = 1; // page 10
        buffer[2 * PAGE_BYTES + 7] = 2; // page 12
        buffer[3 * PAGE_BYTES] = 3; // page 20
        let kept = drop_zero_pages(&runs, &mut buffer);
        let expected =
            [(10, 1), (12, 1), (20, 1)].map(|(start, pages)| PageRun::new(PageIndex(start), pages));
        assert_eq!(kept, expected);
        assert_eq!(buffer.len(), 3 * PAGE_BYTES);
        assert_eq!(
            (buffer[0], buffer[PAGE_BYTES + 7], buffer[2 * PAGE_BYTES]),
            (1, 2, 3)
        );
    }
}
