//! The first and the last bytes of a pack.

use lifeboat_proto::id::PackId;

use super::{PACK_FOOTER_BYTES, PACK_HEADER_BYTES};
use crate::{
    FORMAT_VERSION,
    envelope::check_version,
    error::{FormatError, KeyId, Object},
    seal::{DIGEST_BYTES, Digest, Seal},
};

const HEADER_MAGIC: &[u8; 8] = b"LBPACK01";
const FOOTER_MAGIC: &[u8; 8] = b"LBPACKND";

/// What a pack begins with.
pub(super) fn header(version: u16, seal: &Seal) -> [u8; PACK_HEADER_BYTES] {
    let mut header = [0; PACK_HEADER_BYTES];
    header[..8].copy_from_slice(HEADER_MAGIC);
    header[8..10].copy_from_slice(&version.to_le_bytes());
    header[10] = seal.kind();
    header
}

/// The last bytes of a pack.
pub(super) struct Footer {
    pub(super) directory_bytes: u32,
    pub(super) frames: u32,
    pub(super) version: u16,
    kind: u8,
    key_id: KeyId,
    digest: Digest,
}

impl Footer {
    /// The footer after this directory.
    pub(super) fn new(directory: &[u8], frames: usize, seal: &Seal) -> Self {
        let mut footer = Self {
            directory_bytes: u32::try_from(directory.len())
                .expect("bounded by DIRECTORY_BYTES_MAX"),
            frames: u32::try_from(frames).expect("bounded by PACK_FRAMES_MAX"),
            version: FORMAT_VERSION,
            kind: seal.kind(),
            key_id: seal.key_id(),
            digest: [0; DIGEST_BYTES],
        };
        footer.digest = seal.digest(Object::Pack, &[&footer.head(), directory]);
        footer
    }

    /// Fails unless the footer's digest is that of `directory`.
    pub(super) fn check(&self, directory: &[u8], seal: &Seal) -> Result<(), FormatError> {
        seal.check(Object::Pack, &[&self.head(), directory], &self.digest)
    }

    /// Fails unless `seal` can check the digest.
    pub(super) fn accepted_by(&self, seal: &Seal) -> Result<(), FormatError> {
        seal.accepts(Object::Pack, self.kind, self.key_id)
    }

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

    /// The bytes of the footer.
    pub(super) fn encode(&self) -> [u8; PACK_FOOTER_BYTES] {
        let mut footer = [0; PACK_FOOTER_BYTES];
        footer[..24].copy_from_slice(&self.head());
        footer[24..56].copy_from_slice(&self.digest);
        footer[56..].copy_from_slice(FOOTER_MAGIC);
        footer
    }

    /// The footer at the end of `tail`, and what is before it.
    pub(super) fn parse(tail: &[u8]) -> Result<(&[u8], Self), FormatError> {
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

    /// The pack's id.
    pub(super) fn id(&self) -> PackId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.digest[..16]);
        PackId(id)
    }
}
