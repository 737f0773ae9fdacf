//! Reading a pack without a manifest.

use bytes::Bytes;
use lifeboat_proto::{
    id::{Epoch, PackId},
    image,
};
use prost::Message as _;

use super::{
    DIRECTORY_BYTES_MAX, PACK_BYTES_MAX, PACK_FOOTER_BYTES, PACK_FRAMES_MAX, PACK_HEADER_BYTES,
    PackOrigin, check_raw, check_stored,
    footer::{Footer, header},
    invalid,
};
use crate::{
    codec::Codec,
    error::{FormatError, Object, Problem},
    frame::{FrameRef, StoredFrame},
    limits::{self, FieldLimit},
    owner::FrameOwner,
    seal::{DIGEST_BYTES, Seal},
};

/// What is checked before parsing. An owner has at most 64 runs of at most 13 bytes, or a name.
const LIMITS: &[FieldLimit] = &[FieldLimit::each(4, "frames", PACK_FRAMES_MAX, 2048)];

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
        footer.accepted_by(seal)?;
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
        footer.check(directory, seal)?;

        // The digest holds: what is wrong from here on was written so.
        if footer.frames as usize > PACK_FRAMES_MAX {
            let problem = too_large(footer.frames as usize, PACK_FRAMES_MAX);
            return Err(invalid("frames", problem));
        }
        limits::check(Object::Pack, directory, LIMITS)?;
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
        if pack[..PACK_HEADER_BYTES] != header(Footer::parse(pack)?.1.version, seal) {
            return Err(FormatError::Magic {
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

fn too_large(found: usize, most: usize) -> Problem {
    Problem::TooLarge {
        found: found as u64,
        most: most as u64,
    }
}
