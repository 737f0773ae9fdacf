//! The stage that fills packs with frames and keeps the books: one OS thread.

use std::{collections::BTreeMap, sync::Arc};

use async_channel::{Receiver, Sender};
use lifeboat_format::{
    frame::FrameRef,
    manifest::PackRef,
    pack::{PackBuilder, PackOrigin},
    runs::PageRunRef,
    seal::Seal,
};
use lifeboat_proto::units::PageIndex;
use lifeboat_track::ContentHash;

use super::{
    Captured, Encoded, Failure, LeftOut, PipelineError, Rates, Target, upload::FinishedPack,
};

/// What the pack thread works with.
#[derive(Debug)]
pub(super) struct Stage {
    pub frames: Receiver<Encoded>,
    pub packs: Sender<FinishedPack>,
    pub failure: Arc<Failure>,
    pub rates: Arc<Rates>,
    pub origin: PackOrigin,
    pub seal: Arc<Seal>,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Packed {
    packs: Vec<PackRef>,
    frames: Vec<FrameRef>,
    spaces: BTreeMap<usize, Vec<PageRunRef>>,
    streams: BTreeMap<usize, BTreeMap<u32, u32>>,
    hashes: BTreeMap<usize, Vec<(PageIndex, ContentHash)>>,
}

impl Stage {
    /// Works until the queue of frames is closed, or the uploads have failed.
    pub(super) fn run(mut self) -> Packed {
        let mut packed = Packed::default();
        let mut builder = self.builder(0);
        while let Ok(encoded) = self.frames.recv_blocking() {
            let Encoded {
                target,
                owner,
                payload,
                codec,
                digest,
                raw_bytes,
            } = encoded;
            match builder.append_sealed(&payload, codec, raw_bytes, digest, &owner) {
                Ok(frame) => packed.note(frame, target),
                Err(source) => {
                    self.failure.set(PipelineError::Pack(source));
                    return packed;
                }
            }
            if builder.is_full() {
                let index = packed.packs.len() + 1;
                self.origin.sequence += 1;
                let full = std::mem::replace(&mut builder, self.builder(index));
                if !self.send(full, &mut packed) {
                    return packed;
                }
            }
        }
        if !builder.is_empty() {
            self.send(builder, &mut packed);
        }
        packed
    }

    fn builder(&self, index: usize) -> PackBuilder {
        let index = u32::try_from(index).expect("packs are large, memory is finite");
        PackBuilder::new(index, &self.origin, &self.seal)
    }

    fn send(&self, builder: PackBuilder, packed: &mut Packed) -> bool {
        let (id, body) = builder.finish();
        packed.packs.push(PackRef {
            id,
            size_bytes: body.len() as u64,
        });
        let Err(full) = self.packs.try_send((id, body)) else {
            return true;
        };
        let waiting = self.rates.wait();
        let sent = self.packs.send_blocking(full.into_inner());
        drop(waiting);
        sent.is_ok()
    }
}

impl Packed {
    fn note(&mut self, frame: FrameRef, target: Target) {
        let index = u32::try_from(self.frames.len()).expect("frames are large, memory is finite");
        self.frames.push(frame);
        match target {
            Target::Space {
                space,
                runs,
                hashes,
            } => {
                if !hashes.is_empty() {
                    let pages = runs.iter().flat_map(|run| run.start.0..run.end().0);
                    let of_space = self.hashes.entry(space).or_default();
                    of_space.extend(pages.map(PageIndex).zip(hashes));
                }
                let entries = self.spaces.entry(space).or_default();
                let mut frame_page = 0;
                for run in runs {
                    entries.push(PageRunRef {
                        run,
                        frame: index,
                        frame_page,
                    });
                    frame_page += u32::try_from(run.pages).expect("a frame has few pages");
                }
            }
            Target::Stream { stream, sequence } => {
                self.streams
                    .entry(stream)
                    .or_default()
                    .insert(sequence, index);
            }
        }
    }

    /// The books in the form of a manifest.
    pub(super) fn into_captured(self) -> Captured {
        let spaces = self
            .spaces
            .into_iter()
            .map(|(space, mut runs)| {
                runs.sort_unstable_by_key(|one| one.run.start);
                (space, runs)
            })
            .collect();
        let streams = self
            .streams
            .into_iter()
            .map(|(stream, frames)| (stream, frames.into_values().collect()))
            .collect();
        Captured {
            packs: self.packs,
            frames: self.frames,
            spaces,
            streams,
            hashes: self.hashes,
            left_out: LeftOut::default(),
        }
    }
}
