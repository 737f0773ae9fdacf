//! Packs: immutable objects of many frames, the unit of writing.
//!
//! ```text
//! header 16 | payloads, without gaps | directory | footer 64
//! ```
//!
//! The directory tells what each frame is, so that an index can be rebuilt from packs alone. The
//! footer's digest covers the directory, which holds the digest of every payload: it covers the
//! whole pack, and its first 16 bytes are the pack's id. So each byte is hashed once. A pack is built
//! without a copy: in one buffer that becomes the object's bytes ([`PackBuilder::finish`]), or of
//! payloads that others made, which stay where they are ([`PackBuilder::finish_pieces`]).

mod directory;
mod footer;

use std::ops::Range;

use bytes::Bytes;
use lifeboat_proto::{
    id::{Epoch, PackId, WorkloadName},
    image,
};
use prost::Message as _;

pub use self::directory::{DirectoryEntry, PackDirectory};
use self::footer::{Footer, header};
use crate::{
    FORMAT_VERSION,
    codec::{Codec, Effort, Encoder},
    error::{FormatError, Object, Problem},
    frame::{FRAME_BYTES_MAX, FrameRef},
    owner::FrameOwner,
    seal::{Digest, Seal},
};

/// Usual size of a pack, in bytes: large enough for a store's throughput, small enough for many in
/// flight.
pub const PACK_BYTES_TARGET: usize = 16 << 20;

/// Largest pack, in bytes.
pub const PACK_BYTES_MAX: usize = 32 << 20;

/// Most frames in a pack.
pub const PACK_FRAMES_MAX: usize = 1 << 16;

/// Largest directory of a pack, in bytes.
pub const DIRECTORY_BYTES_MAX: usize = 4 << 20;

/// What to fetch of a pack's end to have most directories at once, in bytes.
pub const PACK_TAIL_BYTES: usize = 64 << 10;

/// Size of a pack's header, in bytes.
pub const PACK_HEADER_BYTES: usize = 16;

/// Size of a pack's footer, in bytes.
pub const PACK_FOOTER_BYTES: usize = 64;

/// Where the frames of a pack come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOrigin {
    /// The workload.
    pub workload: WorkloadName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Counts the packs of the workload: the frame in the later pack is the newer one.
    pub sequence: u64,
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackBuilder {
    index: u32,
    seal: Seal,
    target_bytes: usize,
    /// What was finished before `buffer`.
    pieces: Vec<Bytes>,
    pieces_bytes: usize,
    buffer: Vec<u8>,
    directory: image::PackDirectory,
    directory_bytes: usize,
}

impl PackBuilder {
    /// An empty pack. `index` is what [`FrameRef::pack`] of its frames will be.
    #[must_use]
    pub fn new(index: u32, origin: &PackOrigin, seal: &Seal) -> Self {
        Self::with_buffer(index, origin, seal, PACK_BYTES_TARGET, Vec::new())
    }

    /// Like [`PackBuilder::new`], with another target size (at most [`PACK_BYTES_MAX`] less two
    /// frames) and with memory that is used again (see [`recycle`]).
    #[must_use]
    pub fn with_buffer(
        index: u32,
        origin: &PackOrigin,
        seal: &Seal,
        target_bytes: usize,
        mut buffer: Vec<u8>,
    ) -> Self {
        let target_bytes = target_bytes.min(PACK_BYTES_MAX - 4 * FRAME_BYTES_MAX);
        buffer.clear();
        // Room for the frame that crosses the target, and for the directory: growing would copy.
        buffer.reserve(target_bytes + 2 * FRAME_BYTES_MAX);
        Self::begin(index, origin, seal, target_bytes, buffer)
    }

    /// Like [`PackBuilder::new`], for a pack of payloads that were made elsewhere
    /// ([`PackBuilder::append_payload`]): no memory is set aside for them.
    #[must_use]
    pub fn of_payloads(index: u32, origin: &PackOrigin, seal: &Seal, target_bytes: usize) -> Self {
        let target_bytes = target_bytes.min(PACK_BYTES_MAX - 4 * FRAME_BYTES_MAX);
        Self::begin(index, origin, seal, target_bytes, Vec::new())
    }

    fn begin(
        index: u32,
        origin: &PackOrigin,
        seal: &Seal,
        target_bytes: usize,
        mut buffer: Vec<u8>,
    ) -> Self {
        buffer.extend_from_slice(&header(FORMAT_VERSION, seal));
        let directory = image::PackDirectory {
            workload: origin.workload.to_string(),
            epoch: origin.epoch.0,
            sequence: origin.sequence,
            frames: Vec::new(),
        };
        let directory_bytes = directory.encoded_len();
        Self {
            index,
            seal: seal.clone(),
            target_bytes,
            pieces: Vec::new(),
            pieces_bytes: 0,
            buffer,
            directory,
            directory_bytes,
        }
    }

    /// Encodes `raw` straight into the pack.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] for content that is empty or above [`FRAME_BYTES_MAX`], for owners
    /// that a reader would refuse, and when the pack has no room (see [`PackBuilder::is_full`]).
    pub fn encode(
        &mut self,
        encoder: &mut Encoder,
        raw: &[u8],
        effort: Effort,
        owner: &FrameOwner,
    ) -> Result<FrameRef, FormatError> {
        self.check_frame(raw.len(), owner)?;
        let begin = self.buffer.len();
        let codec = encoder.append(raw, effort, &mut self.buffer);
        Ok(self.seal_frame(begin, codec, raw.len(), owner))
    }

    /// Adds `raw_bytes` bytes as they are, and lets `fill` write them where they will lie. This is
    /// the way without a copy: memory is read straight into the pack.
    ///
    /// # Errors
    ///
    /// As [`PackBuilder::encode`]; the inner error is what `fill` failed with. Nothing is added
    /// then.
    pub fn fill<E>(
        &mut self,
        raw_bytes: usize,
        owner: &FrameOwner,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<FrameRef, E>, FormatError> {
        self.check_frame(raw_bytes, owner)?;
        let begin = self.buffer.len();
        self.buffer.resize(begin + raw_bytes, 0);
        match fill(&mut self.buffer[begin..]) {
            Ok(()) => Ok(Ok(self.seal_frame(begin, Codec::Raw, raw_bytes, owner))),
            Err(error) => {
                self.buffer.truncate(begin);
                Ok(Err(error))
            }
        }
    }

    /// Adds a payload that an [`Encoder`] made from `raw_bytes` bytes.
    ///
    /// # Errors
    ///
    /// As [`PackBuilder::encode`].
    pub fn append(
        &mut self,
        payload: &[u8],
        codec: Codec,
        raw_bytes: usize,
        owner: &FrameOwner,
    ) -> Result<FrameRef, FormatError> {
        let digest = self.seal.frame_digest(payload);
        self.append_sealed(payload, codec, raw_bytes, digest, owner)
    }

    /// Like [`PackBuilder::append`], with a digest that [`Seal::frame_digest`] made of the payload
    /// elsewhere: so several threads hash for one that fills packs.
    ///
    /// # Errors
    ///
    /// As [`PackBuilder::encode`].
    pub fn append_sealed(
        &mut self,
        payload: &[u8],
        codec: Codec,
        raw_bytes: usize,
        digest: Digest,
        owner: &FrameOwner,
    ) -> Result<FrameRef, FormatError> {
        self.check_payload(payload.len(), codec, raw_bytes, owner)?;
        let begin = self.payload_end();
        self.buffer.extend_from_slice(payload);
        Ok(self.note_frame(begin, codec, raw_bytes, digest, owner))
    }

    /// Like [`PackBuilder::append_sealed`], of a payload that becomes a part of the pack as it is.
    ///
    /// # Errors
    ///
    /// As [`PackBuilder::encode`].
    pub fn append_payload(
        &mut self,
        payload: Bytes,
        codec: Codec,
        raw_bytes: usize,
        digest: Digest,
        owner: &FrameOwner,
    ) -> Result<FrameRef, FormatError> {
        self.check_payload(payload.len(), codec, raw_bytes, owner)?;
        let begin = self.payload_end();
        self.close_piece();
        self.pieces_bytes += payload.len();
        self.pieces.push(payload);
        Ok(self.note_frame(begin, codec, raw_bytes, digest, owner))
    }

    /// Whether the target is reached: time to [`PackBuilder::finish`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.target_bytes
            || self.directory.frames.len() >= PACK_FRAMES_MAX
            || self.directory_bytes >= DIRECTORY_BYTES_MAX / 2
    }

    /// Whether there is no frame yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directory.frames.is_empty()
    }

    /// Size that the pack would have now, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payload_end() + self.directory_bytes + PACK_FOOTER_BYTES
    }

    /// The finished pack. Nothing is copied, unless payloads were appended as they are.
    #[must_use]
    pub fn finish(self) -> (PackId, Bytes) {
        let (id, mut pieces) = self.finish_pieces();
        let whole = match pieces.len() {
            1 => pieces.remove(0),
            _ => pieces.concat().into(),
        };
        (id, whole)
    }

    /// The finished pack as pieces that follow each other. Nothing is copied.
    #[must_use]
    pub fn finish_pieces(mut self) -> (PackId, Vec<Bytes>) {
        let begin = self.buffer.len();
        self.directory
            .encode(&mut self.buffer)
            .expect("a vector grows as needed");
        let footer = Footer::new(
            &self.buffer[begin..],
            self.directory.frames.len(),
            &self.seal,
        );
        let id = footer.id();
        self.buffer.extend_from_slice(&footer.encode());
        self.close_piece();
        (id, self.pieces)
    }

    /// Where the payloads so far end, in the pack.
    fn payload_end(&self) -> usize {
        self.pieces_bytes + self.buffer.len()
    }

    fn close_piece(&mut self) {
        if !self.buffer.is_empty() {
            self.pieces_bytes += self.buffer.len();
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }

    fn check_payload(
        &self,
        stored_bytes: usize,
        codec: Codec,
        raw_bytes: usize,
        owner: &FrameOwner,
    ) -> Result<(), FormatError> {
        self.check_frame(raw_bytes, owner)?;
        check_stored(codec, stored_bytes as u64, raw_bytes as u64)
            .map_err(|problem| invalid("stored_bytes", problem))
    }

    fn check_frame(&self, raw_bytes: usize, owner: &FrameOwner) -> Result<(), FormatError> {
        check_raw(raw_bytes as u64).map_err(|problem| invalid("raw_bytes", problem))?;
        owner
            .check(raw_bytes as u64)
            .map_err(|problem| invalid("owner", problem))?;
        let found = self.bytes() + 2 * FRAME_BYTES_MAX;
        let fits = found <= PACK_BYTES_MAX
            && self.directory.frames.len() < PACK_FRAMES_MAX
            && self.directory_bytes < DIRECTORY_BYTES_MAX - FRAME_BYTES_MAX;
        if fits {
            return Ok(());
        }
        let problem = Problem::TooLarge {
            found: found as u64,
            most: PACK_BYTES_MAX as u64,
        };
        Err(invalid("size", problem))
    }

    /// Notes the frame whose payload begins at `begin` of the buffer and ends where it ends.
    fn seal_frame(
        &mut self,
        begin: usize,
        codec: Codec,
        raw_bytes: usize,
        owner: &FrameOwner,
    ) -> FrameRef {
        let digest = self.seal.frame_digest(&self.buffer[begin..]);
        let begin = self.pieces_bytes + begin;
        self.note_frame(begin, codec, raw_bytes, digest, owner)
    }

    /// Notes the frame whose payload begins at `begin` of the pack and ends where the payloads so far
    /// end.
    fn note_frame(
        &mut self,
        begin: usize,
        codec: Codec,
        raw_bytes: usize,
        digest: Digest,
        owner: &FrameOwner,
    ) -> FrameRef {
        let stored_bytes = self.payload_end() - begin;
        let frame = FrameRef {
            pack: self.index,
            offset: begin as u64,
            stored_bytes: u32::try_from(stored_bytes).expect("bounded by FRAME_BYTES_MAX"),
            raw_bytes: u32::try_from(raw_bytes).expect("bounded by FRAME_BYTES_MAX"),
            codec,
            digest,
        };
        let entry = image::PackFrame {
            stored_bytes: frame.stored_bytes,
            raw_bytes: frame.raw_bytes,
            codec: image::Codec::from(codec).into(),
            digest: Bytes::copy_from_slice(&frame.digest),
            owner: Some(owner.into()),
        };
        let entry_bytes = entry.encoded_len();
        self.directory_bytes += 1 + prost::length_delimiter_len(entry_bytes) + entry_bytes;
        self.directory.frames.push(entry);
        frame
    }
}

/// The memory of a pack that was uploaded, for the next one; `None` while it is shared.
#[must_use]
pub fn recycle(pack: Bytes) -> Option<Vec<u8>> {
    pack.try_into_mut().ok().map(Vec::from)
}

/// Fails unless a frame may have so much content.
pub(crate) fn check_raw(raw_bytes: u64) -> Result<(), Problem> {
    match raw_bytes {
        0 => Err(Problem::TooSmall { found: 0, least: 1 }),
        found if found > FRAME_BYTES_MAX as u64 => Err(Problem::TooLarge {
            found,
            most: FRAME_BYTES_MAX as u64,
        }),
        _ => Ok(()),
    }
}

/// Fails unless a payload may have this size.
pub(crate) fn check_stored(codec: Codec, stored: u64, raw: u64) -> Result<(), Problem> {
    match codec {
        _ if stored == 0 => Err(Problem::TooSmall { found: 0, least: 1 }),
        Codec::Raw if stored != raw => Err(Problem::Differs {
            found: stored,
            expected: raw,
        }),
        _ if stored > raw => Err(Problem::TooLarge {
            found: stored,
            most: raw,
        }),
        _ => Ok(()),
    }
}

/// The places of a pack of `pack_bytes` bytes where payloads can be.
pub(crate) fn payload_range(pack_bytes: u64) -> Range<u64> {
    PACK_HEADER_BYTES as u64..pack_bytes.saturating_sub(PACK_FOOTER_BYTES as u64)
}

fn invalid(field: &str, problem: Problem) -> FormatError {
    FormatError::invalid(Object::Pack, field, problem)
}
