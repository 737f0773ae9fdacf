//! Packs: immutable objects of many frames, the unit of writing.
//!
//! ```text
//! header 16 | payloads, without gaps | directory | footer 64
//! ```
//!
//! The directory tells what each frame is, so that an index can be rebuilt from packs alone. The
//! footer's digest covers the directory, which holds the digest of every payload: it covers the
//! whole pack, and its first 16 bytes are the pack's id. So each byte is hashed once, and a pack is
//! built in one buffer that becomes the object's bytes without a copy.

use std::ops::Range;

use bytes::Bytes;
use lifeboat_proto::{
    id::{Epoch, PackId, WorkloadName},
    image,
};
use prost::Message as _;

use crate::{
    FORMAT_VERSION,
    codec::{Codec, Effort, Encoder},
    envelope::check_version,
    error::{FormatError, KeyId, Object, Problem},
    frame::{FRAME_BYTES_MAX, FrameRef, StoredFrame},
    owner::FrameOwner,
    seal::{DIGEST_BYTES, Digest, Seal},
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

const HEADER_MAGIC: &[u8; 8] = b"LBPACK01";
const FOOTER_MAGIC: &[u8; 8] = b"LBPACKND";

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
    buffer: Vec<u8>,
    directory: image::PackDirectory,
    directory_bytes: usize,
}

/// What the end of a pack tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDirectory {
    /// The pack's id.
    pub id: PackId,
    /// Where the frames come from.
    pub origin: PackOrigin,
    /// The frames, in the order of their payloads.
    pub entries: Vec<DirectoryEntry>,
}

/// One frame of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The frame. Its `pack` is the number given to [`PackDirectory::parse`].
    pub frame: FrameRef,
    /// What its content is.
    pub owner: FrameOwner,
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
        buffer.extend_from_slice(&header(seal));
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
        self.seal_frame(begin, codec, raw.len(), owner)
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
        self.check_frame(raw_bytes, owner)?;
        check_stored(codec, payload.len() as u64, raw_bytes as u64)
            .map_err(|problem| invalid("stored_bytes", problem))?;
        let begin = self.buffer.len();
        self.buffer.extend_from_slice(payload);
        self.seal_frame(begin, codec, raw_bytes, owner)
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
        self.buffer.len() + self.directory_bytes + PACK_FOOTER_BYTES
    }

    /// The finished pack. Nothing is copied.
    #[must_use]
    pub fn finish(mut self) -> (PackId, Bytes) {
        let begin = self.buffer.len();
        self.directory
            .encode(&mut self.buffer)
            .expect("a vector grows as needed");
        let directory = &self.buffer[begin..];
        let mut footer = Footer {
            directory_bytes: u32::try_from(directory.len())
                .expect("bounded by DIRECTORY_BYTES_MAX"),
            frames: u32::try_from(self.directory.frames.len()).expect("bounded by PACK_FRAMES_MAX"),
            version: FORMAT_VERSION,
            kind: self.seal.kind(),
            key_id: self.seal.key_id(),
            digest: [0; DIGEST_BYTES],
        };
        footer.digest = self.seal.digest(Object::Pack, &[&footer.head(), directory]);
        let id = footer.id();
        self.buffer.extend_from_slice(&footer.encode());
        (id, self.buffer.into())
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

    fn seal_frame(
        &mut self,
        begin: usize,
        codec: Codec,
        raw_bytes: usize,
        owner: &FrameOwner,
    ) -> Result<FrameRef, FormatError> {
        let payload = &self.buffer[begin..];
        let frame = FrameRef {
            pack: self.index,
            offset: begin as u64,
            stored_bytes: u32::try_from(payload.len()).expect("bounded by FRAME_BYTES_MAX"),
            raw_bytes: u32::try_from(raw_bytes).expect("bounded by FRAME_BYTES_MAX"),
            codec,
            digest: self.seal.frame_digest(payload),
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
        Ok(frame)
    }
}

/// The memory of a pack that was uploaded, for the next one; `None` while it is shared.
#[must_use]
pub fn recycle(pack: Bytes) -> Option<Vec<u8>> {
    pack.try_into_mut().ok().map(Vec::from)
}

impl PackDirectory {
    /// Reads the directory from the end of a pack of `pack_bytes` bytes. `index` becomes the
    /// [`FrameRef::pack`] of its frames.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`]. [`FormatError::Truncated`] with a `needed` of up to
    /// [`DIRECTORY_BYTES_MAX`] and a footer tells how much of the end is needed.
    pub fn parse(
        tail: &[u8],
        pack_bytes: u64,
        index: u32,
        seal: &Seal,
    ) -> Result<Self, FormatError> {
        let (before, footer) = Footer::parse(tail)?;
        seal.accepts(Object::Pack, footer.kind, footer.key_id)?;
        let size = footer.directory_bytes as usize;
        if size > DIRECTORY_BYTES_MAX {
            let problem = too_large(size, DIRECTORY_BYTES_MAX);
            return Err(invalid("directory size", problem));
        }
        let Some(directory) = before.len().checked_sub(size).map(|begin| &before[begin..]) else {
            return Err(FormatError::Truncated {
                object: Object::Pack,
                needed: (size + PACK_FOOTER_BYTES) as u64,
                found: tail.len() as u64,
            });
        };
        seal.check(Object::Pack, &[&footer.head(), directory], &footer.digest)?;

        // The digest holds: what is wrong from here on was written so.
        if footer.frames as usize > PACK_FRAMES_MAX {
            let problem = too_large(footer.frames as usize, PACK_FRAMES_MAX);
            return Err(invalid("frames", problem));
        }
        let message =
            image::PackDirectory::decode(directory).map_err(|source| FormatError::Malformed {
                object: Object::Pack,
                source,
            })?;
        if message.frames.len() != footer.frames as usize {
            let (found, expected) = (message.frames.len() as u64, u64::from(footer.frames));
            return Err(invalid("frames", Problem::Differs { found, expected }));
        }
        let entries = entries(&message.frames, index)?;
        let end = entries
            .last()
            .map_or(PACK_HEADER_BYTES as u64, |entry| entry.frame.range().end);
        let found = end + (size + PACK_FOOTER_BYTES) as u64;
        if found != pack_bytes {
            return Err(invalid(
                "size",
                Problem::Differs {
                    found,
                    expected: pack_bytes,
                },
            ));
        }
        let workload = message
            .workload
            .parse()
            .map_err(|e| invalid("workload", Problem::Id(e)))?;
        let (epoch, sequence) = (Epoch(message.epoch), message.sequence);
        let origin = PackOrigin {
            workload,
            epoch,
            sequence,
        };
        Ok(Self {
            id: footer.id(),
            origin,
            entries,
        })
    }

    /// Checks a whole pack: header, directory, and every payload against its digest.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn verify(pack: &Bytes, index: u32, seal: &Seal) -> Result<Self, FormatError> {
        if pack.len() > PACK_BYTES_MAX {
            return Err(invalid("size", too_large(pack.len(), PACK_BYTES_MAX)));
        }
        let directory = Self::parse(pack, pack.len() as u64, index, seal)?;
        let version = Footer::parse(pack)?.1.version;
        if pack[..8] != *HEADER_MAGIC || pack[8..10] != version.to_le_bytes() {
            return Err(FormatError::Magic {
                object: Object::Pack,
            });
        }
        if pack[10] != seal.kind() || pack[11..PACK_HEADER_BYTES] != [0; 5] {
            return Err(FormatError::Digest {
                object: Object::Pack,
            });
        }
        for entry in &directory.entries {
            StoredFrame::from_range(pack, 0, &entry.frame)?.verify(&entry.frame, seal)?;
        }
        Ok(directory)
    }
}

fn entries(frames: &[image::PackFrame], index: u32) -> Result<Vec<DirectoryEntry>, FormatError> {
    let mut offset = PACK_HEADER_BYTES as u64;
    let mut entry = |frame: &image::PackFrame| -> Result<DirectoryEntry, (&str, Problem)> {
        let codec = Codec::try_from(frame.codec).map_err(|p| ("codec", p))?;
        let digest = frame.digest.as_ref().try_into().map_err(|_| {
            let found = frame.digest.len();
            (
                "digest",
                Problem::Length {
                    found,
                    expected: DIGEST_BYTES,
                },
            )
        })?;
        let (raw, stored) = (u64::from(frame.raw_bytes), u64::from(frame.stored_bytes));
        check_raw(raw).map_err(|p| ("raw_bytes", p))?;
        check_stored(codec, stored, raw).map_err(|p| ("stored_bytes", p))?;
        let owner = frame.owner.as_ref().ok_or(("owner", Problem::Missing))?;
        let owner = FrameOwner::try_from(owner).map_err(|p| ("owner", p))?;
        owner.check(raw).map_err(|p| ("owner", p))?;
        let frame = FrameRef {
            pack: index,
            offset,
            stored_bytes: frame.stored_bytes,
            raw_bytes: frame.raw_bytes,
            codec,
            digest,
        };
        offset = frame.range().end;
        Ok(DirectoryEntry { frame, owner })
    };
    let mut entries = Vec::with_capacity(frames.len());
    for (at, frame) in frames.iter().enumerate() {
        entries.push(
            entry(frame)
                .map_err(|(field, problem)| invalid(&format!("frames[{at}].{field}"), problem))?,
        );
    }
    Ok(entries)
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

fn header(seal: &Seal) -> [u8; PACK_HEADER_BYTES] {
    let mut header = [0; PACK_HEADER_BYTES];
    header[..8].copy_from_slice(HEADER_MAGIC);
    header[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[10] = seal.kind();
    header
}

/// The last bytes of a pack.
struct Footer {
    directory_bytes: u32,
    frames: u32,
    version: u16,
    kind: u8,
    key_id: KeyId,
    digest: Digest,
}

impl Footer {
    /// The fields before the digest, which the digest covers.
    fn head(&self) -> [u8; 24] {
        let mut head = [0; 24];
        head[..4].copy_from_slice(&self.directory_bytes.to_le_bytes());
        head[4..8].copy_from_slice(&self.frames.to_le_bytes());
        head[8..10].copy_from_slice(&self.version.to_le_bytes());
        head[10] = self.kind;
        head[16..24].copy_from_slice(&self.key_id.0);
        head
    }

    fn encode(&self) -> [u8; PACK_FOOTER_BYTES] {
        let mut footer = [0; PACK_FOOTER_BYTES];
        footer[..24].copy_from_slice(&self.head());
        footer[24..56].copy_from_slice(&self.digest);
        footer[56..].copy_from_slice(FOOTER_MAGIC);
        footer
    }

    /// The footer at the end of `tail`, and what is before it.
    fn parse(tail: &[u8]) -> Result<(&[u8], Self), FormatError> {
        let object = Object::Pack;
        let Some((before, bytes)) = tail.split_last_chunk::<PACK_FOOTER_BYTES>() else {
            let (needed, found) = (PACK_FOOTER_BYTES as u64, tail.len() as u64);
            return Err(FormatError::Truncated {
                object,
                needed,
                found,
            });
        };
        if !bytes.ends_with(FOOTER_MAGIC) {
            return Err(FormatError::Magic { object });
        }
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        check_version(object, version)?;
        let mut footer = Self {
            directory_bytes: number(0),
            frames: number(4),
            version,
            kind: bytes[10],
            key_id: KeyId::default(),
            digest: [0; DIGEST_BYTES],
        };
        footer.key_id.0.copy_from_slice(&bytes[16..24]);
        footer.digest.copy_from_slice(&bytes[24..56]);
        if bytes[11..16] != [0; 5] {
            return Err(FormatError::Digest { object });
        }
        Ok((before, footer))
    }

    fn id(&self) -> PackId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.digest[..16]);
        PackId(id)
    }
}

fn too_large(found: usize, most: usize) -> Problem {
    Problem::TooLarge {
        found: found as u64,
        most: most as u64,
    }
}

fn invalid(field: &str, problem: Problem) -> FormatError {
    FormatError::invalid(Object::Pack, field, problem)
}

impl From<Codec> for image::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Raw => Self::Raw,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

impl TryFrom<i32> for Codec {
    type Error = Problem;

    fn try_from(codec: i32) -> Result<Self, Problem> {
        match image::Codec::try_from(codec) {
            Ok(image::Codec::Raw) => Ok(Self::Raw),
            Ok(image::Codec::Lz4) => Ok(Self::Lz4),
            Ok(image::Codec::Zstd) => Ok(Self::Zstd),
            Ok(image::Codec::Unspecified) | Err(_) => Err(Problem::UnknownValue(codec)),
        }
    }
}
