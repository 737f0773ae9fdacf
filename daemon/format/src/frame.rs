//! Frames: the unit of reading.
//!
//! A frame travels through three types, each made only from the one before:
//! [`StoredFrame`] (bytes that came from a store and mean nothing yet) → [`SealedFrame`] (they are
//! what the manifest names) → [`VerifiedFrame`] (their content). Whoever installs memory or writes
//! files asks for a [`VerifiedFrame`], so that unverified bytes cannot get there.

use std::ops::Range;

use bytes::Bytes;
use lifeboat_proto::units::PAGE_BYTES;

use crate::{
    codec::{Codec, Decoder},
    error::{FormatError, Object},
    seal::{Digest, Seal},
};

/// Most pages in a frame of memory. Decides how much a page fault has to wait for.
pub const FRAME_PAGES_MAX: usize = 64;

/// Largest content of any frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Where a frame is and how it must look: an entry of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameRef {
    /// Index into the manifest's packs.
    pub pack: u32,
    /// Offset of the payload in the pack, in bytes.
    pub offset: u64,
    /// Size of the payload, in bytes.
    pub stored_bytes: u32,
    /// Size of the content, in bytes.
    pub raw_bytes: u32,
    /// How the payload is encoded.
    pub codec: Codec,
    /// Digest of the payload, made by [`Seal::frame_digest`].
    pub digest: Digest,
}

/// A frame's payload as it came from a store. It may be anything.
#[derive(Clone, Debug)]
pub struct StoredFrame {
    payload: Bytes,
}

/// A frame's payload that is what its manifest names, still encoded.
///
/// There is no other way to make one than [`StoredFrame::verify`].
#[derive(Clone, Debug)]
pub struct SealedFrame {
    payload: Bytes,
    codec: Codec,
    raw_bytes: u32,
}

/// A frame's content, known to be what was captured.
///
/// There is no other way to make one than [`SealedFrame::decode`]:
///
/// ```compile_fail,E0451
/// let forged = lifeboat_format::VerifiedFrame { content: bytes::Bytes::new() };
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedFrame {
    content: Bytes,
}

impl FrameRef {
    /// The payload's bytes in the pack.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.stored_bytes as u64)
    }

    /// Whole pages in the content.
    #[must_use]
    pub const fn pages(&self) -> u32 {
        const PAGE: u32 = 4096;
        const _: () = assert!(PAGE as usize == PAGE_BYTES);
        self.raw_bytes / PAGE
    }
}

impl StoredFrame {
    /// Bytes that were fetched for one frame.
    #[must_use]
    pub const fn new(payload: Bytes) -> Self {
        Self { payload }
    }

    /// The part for `frame` of bytes that were fetched from its pack, beginning at `offset`.
    ///
    /// Nothing is copied: the frame keeps all of `fetched` alive.
    ///
    /// # Errors
    ///
    /// [`FormatError::Truncated`] when `fetched` does not contain the frame.
    pub fn from_range(fetched: &Bytes, offset: u64, frame: &FrameRef) -> Result<Self, FormatError> {
        let cut = || {
            let begin = usize::try_from(frame.offset.checked_sub(offset)?).ok()?;
            let end = begin.checked_add(usize::try_from(frame.stored_bytes).ok()?)?;
            (end <= fetched.len()).then(|| fetched.slice(begin..end))
        };
        cut().map(Self::new).ok_or(FormatError::Truncated {
            object: Object::Frame,
            needed: u64::from(frame.stored_bytes),
            found: offset
                .saturating_add(fetched.len() as u64)
                .saturating_sub(frame.offset.max(offset)),
        })
    }

    /// Checks the payload against what the manifest names.
    ///
    /// # Errors
    ///
    /// [`FormatError::Truncated`] or [`FormatError::Digest`]: not the bytes that were written.
    pub fn verify(self, frame: &FrameRef, seal: &Seal) -> Result<SealedFrame, FormatError> {
        if self.payload.len() as u64 != u64::from(frame.stored_bytes) {
            return Err(FormatError::Truncated {
                object: Object::Frame,
                needed: u64::from(frame.stored_bytes),
                found: self.payload.len() as u64,
            });
        }
        seal.check(Object::Frame, &[&self.payload], &frame.digest)?;
        Ok(SealedFrame {
            payload: self.payload,
            codec: frame.codec,
            raw_bytes: frame.raw_bytes,
        })
    }
}

impl SealedFrame {
    /// The content. Frames that are stored as they are cost nothing; others are decoded into a
    /// buffer of their own.
    ///
    /// # Errors
    ///
    /// [`FormatError::Decompress`] when the payload does not decode to exactly the size that the
    /// manifest names: whoever wrote it was wrong.
    pub fn decode(self, decoder: &mut Decoder) -> Result<VerifiedFrame, FormatError> {
        let raw_bytes = self.raw_bytes as usize;
        if self.codec == Codec::Raw && self.payload.len() == raw_bytes {
            return Ok(VerifiedFrame {
                content: self.payload,
            });
        }
        let mut content = Vec::new();
        decoder.decode(self.codec, &self.payload, raw_bytes, &mut content)?;
        Ok(VerifiedFrame {
            content: content.into(),
        })
    }

    /// Like [`SealedFrame::decode`], but always into `buffer`, whose memory is used again:
    /// [`VerifiedFrame::into_buffer`] gives it back.
    ///
    /// # Errors
    ///
    /// As [`SealedFrame::decode`].
    pub fn decode_into(
        self,
        decoder: &mut Decoder,
        mut buffer: Vec<u8>,
    ) -> Result<VerifiedFrame, FormatError> {
        decoder.decode(
            self.codec,
            &self.payload,
            self.raw_bytes as usize,
            &mut buffer,
        )?;
        Ok(VerifiedFrame {
            content: buffer.into(),
        })
    }
}

impl VerifiedFrame {
    /// The whole content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.content
    }

    /// Number of whole pages in the content.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.content.len() / PAGE_BYTES
    }

    /// One page.
    #[must_use]
    pub fn page(&self, index: usize) -> Option<&[u8; PAGE_BYTES]> {
        self.content.as_chunks().0.get(index)
    }

    /// Adjacent pages, as one piece of memory.
    #[must_use]
    pub fn page_range(&self, pages: Range<usize>) -> Option<&[u8]> {
        let begin = pages.start.checked_mul(PAGE_BYTES)?;
        let end = pages.end.checked_mul(PAGE_BYTES)?;
        self.content.get(begin..end)
    }

    /// The content's memory, to be used again. Copies if it is shared.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.content.into()
    }

    /// The content, as shared bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Effort, Encoder};

    fn frame(raw: &[u8], effort: Effort) -> (FrameRef, Bytes) {
        let mut stored = Vec::new();
        let codec = Encoder::new().encode(raw, effort, &mut stored);
        let frame = FrameRef {
            pack: 0,
            offset: 32,
            stored_bytes: u32::try_from(stored.len()).unwrap(),
            raw_bytes: u32::try_from(raw.len()).unwrap(),
            codec,
            digest: Seal::plain().frame_digest(&stored),
        };
        (frame, stored.into())
    }

    #[test]
    fn pages_come_back_as_they_were() {
        let raw: Vec<u8> = (0..3 * PAGE_BYTES).map(|at| at.to_le_bytes()[1]).collect();
        for effort in [Effort::None, Effort::Fast, Effort::Balanced] {
            let (frame, stored) = frame(&raw, effort);
            let sealed = StoredFrame::new(stored)
                .verify(&frame, &Seal::plain())
                .unwrap();
            let verified = sealed.clone().decode(&mut Decoder::new()).unwrap();
            assert_eq!(verified.bytes(), raw);
            assert_eq!(verified.pages(), 3);
            assert_eq!(verified.page(1).unwrap().as_slice(), &raw[4096..8192]);
            assert_eq!(verified.page_range(1..3).unwrap(), &raw[4096..]);
            assert_eq!(verified.page(3), None);
            assert_eq!(verified.page_range(1..4), None);
            let reused = sealed.decode_into(&mut Decoder::new(), vec![9; 7]).unwrap();
            assert_eq!(reused.into_buffer(), raw);
        }
    }

    #[test]
    fn altered_cut_or_foreign_payloads_are_refused() {
        let (frame, stored) = frame(&[5; 4096], Effort::Fast);
        let verify = |bytes: &[u8], seal: &Seal| {
            StoredFrame::new(Bytes::copy_from_slice(bytes)).verify(&frame, seal)
        };
        assert!(verify(&stored, &Seal::plain()).is_ok());
        let key = crate::seal::StoreKey::from_secret(&[1; 32]).unwrap();
        assert!(matches!(
            verify(&stored, &Seal::keyed(&key)),
            Err(FormatError::Digest {
                object: Object::Frame
            })
        ));
        for cut in 0..stored.len() {
            assert!(verify(&stored[..cut], &Seal::plain()).is_err());
        }
        for bit in 0..stored.len() * 8 {
            let mut bytes = stored.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&bytes, &Seal::plain()).is_err());
        }
    }

    #[test]
    fn a_frame_is_cut_from_a_longer_fetch() {
        let (frame, stored) = frame(&[5; 4096], Effort::Fast);
        let fetched = Bytes::from([b"before".as_slice(), &stored, b"after"].concat());
        let part = StoredFrame::from_range(&fetched, frame.offset - 6, &frame).unwrap();
        assert!(part.verify(&frame, &Seal::plain()).is_ok());
        for offset in [0, frame.offset + 1, u64::MAX] {
            assert!(StoredFrame::from_range(&fetched, offset, &frame).is_err());
        }
    }
}
