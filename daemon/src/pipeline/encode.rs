//! The stage that encodes what was read: OS threads, each with a codec of its own.
//!
//! The same threads read ([`super::read`]). Zero pages are left out: a captured page that no run
//! mentions is zero (`lifeboat.image.v1.AddressSpace`). So are pages that hold what is stored of them
//! already.

use std::sync::Arc;

use async_channel::Sender;
use lifeboat_format::{
    codec::{Encoder, is_zero_page},
    owner::FrameOwner,
    seal::Seal,
};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_track::ContentHash;

/// Priority of threads that stand back (`nice(1)`).
const BACKGROUND_NICE: i32 = 19;

use super::{
    Encoded, Failure, LeftOut, Target,
    choose::{self, Chooser},
    clock::{Clock, Spent},
    rates::Frame,
    read::{Content, Read, Reader},
};

/// What one encode thread works with.
#[derive(Debug)]
pub(super) struct Stage {
    pub reader: Reader,
    pub frames: Sender<Encoded>,
    pub failure: Arc<Failure>,
    pub chooser: Arc<Chooser>,
    pub seal: Arc<Seal>,
}

impl Stage {
    /// Works until all jobs are done, or something has failed anywhere.
    pub(super) fn run(self) -> LeftOut {
        if self.chooser.is_background() {
            let this = rustix::thread::gettid();
            if let Err(error) = rustix::process::setpriority_process(Some(this), BACKGROUND_NICE) {
                tracing::debug!(%error, "a background thread does not stand back");
            }
        }
        let mut encoder = Encoder::new();
        let mut left_out = LeftOut::default();
        while !self.failure.is_set() {
            let read = match self.reader.next() {
                Ok(Some(read)) => read,
                Ok(None) => return left_out,
                Err(error) => {
                    self.failure.set(error);
                    break;
                }
            };
            if let Some(encoded) = self.encode(read, &mut encoder, &mut left_out)
                && self.frames.send_blocking(encoded).is_err()
            {
                break;
            }
        }
        left_out
    }

    fn encode(&self, read: Read, encoder: &mut Encoder, left_out: &mut LeftOut) -> Option<Encoded> {
        let spent = read.spent;
        match read.content {
            Content::Vanished { space, runs } => {
                left_out
                    .lost
                    .extend(runs.into_iter().map(|run| (space, run)));
                None
            }
            Content::Pages {
                space,
                source,
                runs,
                known,
                mut bytes,
            } => {
                let clock = Clock::start();
                self.reader.figures.note_taken(bytes.len() as u64);
                let sifted = sift(&runs, &mut bytes, known.as_deref());
                let zero = sifted.zero.iter().map(|run| (space, *run));
                left_out.zero.extend(zero);
                left_out.same_pages += sifted.same_pages;
                let (runs, hashes) = (sifted.kept, sifted.hashes);
                if runs.is_empty() {
                    return None;
                }
                let owner = source.owner(runs.clone());
                let target = Target::Space {
                    space,
                    runs,
                    hashes,
                };
                let spent = spent + clock.spent();
                let encoded = self.frame(encoder, target, owner, &bytes, spent);
                self.reader.shelf.put_back(bytes);
                Some(encoded)
            }
            Content::Piece {
                stream,
                sequence,
                owner,
                bytes,
            } => {
                let target = Target::Stream { stream, sequence };
                Some(self.frame(encoder, target, owner, &bytes, spent))
            }
        }
    }

    fn frame(
        &self,
        encoder: &mut Encoder,
        target: Target,
        owner: FrameOwner,
        bytes: &[u8],
        spent: Spent,
    ) -> Encoded {
        let clock = Clock::start();
        let mut payload = Vec::with_capacity(bytes.len());
        let effort = self.chooser.next();
        let codec = encoder.encode(bytes, effort, &mut payload);
        payload.shrink_to_fit();
        let digest = self.seal.frame_digest(&payload);
        let spent = spent + clock.spent();
        self.chooser.note(&Frame {
            codec: choose::asked(effort),
            stored_as: choose::stored_as(effort, codec),
            raw_bytes: bytes.len() as u64,
            stored_bytes: payload.len() as u64,
            busy: spent.busy,
            took: spent.took,
            is_background: self.chooser.is_background(),
        });
        Encoded {
            target,
            owner,
            payload,
            codec,
            digest,
            raw_bytes: bytes.len(),
        }
    }
}

/// What pages turned out to be.
#[derive(Debug, Default)]
struct Sifted {
    /// To be stored.
    kept: Vec<PageRun>,
    /// Of what is kept, page by page, if it is known what is stored.
    hashes: Vec<ContentHash>,
    zero: Vec<PageRun>,
    same_pages: u64,
}

/// Moves the pages that are to be stored to the front of `buffer`, and cuts it there.
fn sift(runs: &[PageRun], buffer: &mut Vec<u8>, known: Option<&[Option<ContentHash>]>) -> Sifted {
    let mut sifted = Sifted::default();
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
            push(&mut sifted.zero, page);
            continue;
        }
        if let Some(known) = known {
            let hash = ContentHash::of(content);
            if known.get(index).copied().flatten() == Some(hash) {
                sifted.same_pages += 1;
                continue;
            }
            sifted.hashes.push(hash);
        }
        if written != begin {
            buffer.copy_within(begin..begin + PAGE_BYTES, written);
        }
        written += PAGE_BYTES;
        push(&mut sifted.kept, page);
    }
    buffer.truncate(written);
    sifted
}

/// Adds a page to ascending runs.
fn push(runs: &mut Vec<PageRun>, page: PageIndex) {
    match runs.last_mut() {
        Some(last) if last.end() == page => last.pages += 1,
        _ => runs.push(PageRun::new(page, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, pages: u64) -> PageRun {
        PageRun::new(PageIndex(start), pages)
    }

    #[test]
    fn only_pages_with_content_are_kept() {
        let runs = [run(10, 3), run(20, 2)];
        let mut buffer = vec![0; 5 * PAGE_BYTES];
        buffer[0] = 1; // page 10
        buffer[2 * PAGE_BYTES + 7] = 2; // page 12
        buffer[3 * PAGE_BYTES] = 3; // page 20
        let sifted = sift(&runs, &mut buffer, None);
        assert_eq!(sifted.kept, [run(10, 1), run(12, 1), run(20, 1)]);
        assert_eq!(sifted.zero, [run(11, 1), run(21, 1)]);
        assert!(sifted.hashes.is_empty());
        assert_eq!(buffer.len(), 3 * PAGE_BYTES);
        assert_eq!(
            (buffer[0], buffer[PAGE_BYTES + 7], buffer[2 * PAGE_BYTES]),
            (1, 2, 3)
        );
    }

    #[test]
    fn pages_that_hold_what_is_stored_are_left_out() {
        let content = |byte| [byte; PAGE_BYTES];
        let mut buffer = [content(1), content(2), content(3)].concat();
        let known = [
            Some(ContentHash::of(&content(1))),
            None,
            Some(ContentHash::of(&content(1))),
        ];
        let sifted = sift(&[run(5, 3)], &mut buffer, Some(&known));
        assert_eq!(sifted.same_pages, 1);
        assert_eq!(sifted.kept, [run(6, 2)]);
        let stored = [content(2), content(3)];
        assert_eq!(sifted.hashes, stored.each_ref().map(ContentHash::of));
        assert_eq!(buffer, stored.concat());
    }
}
