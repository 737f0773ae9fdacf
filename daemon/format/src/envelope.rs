//! The frame around small stored objects (manifests and heads): magic, version, seal, content,
//! digest.
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! | 0 | 8 | magic |
//! | 8 | 2 | format version |
//! | 10 | 1 | kind of seal: 0 plain, 1 keyed |
//! | 11 | 1 | coding of the content: 0 as it is, 1 Zstandard |
//! | 12 | 4 | zero; ignored when read |
//! | 16 | 8 | id of the store key, zero for a plain seal |
//! | 24 | 8 | size of the content when decoded |
//! | 32 | n | content |
//! | 32+n | 32 | digest of all before |
//!
//! Numbers are little endian. The digest is checked before anything is decompressed or parsed.

use bytes::Bytes;

use crate::{
    FORMAT_VERSION, FORMAT_VERSION_OLDEST,
    error::{FormatError, KeyId, Object, Problem},
    seal::{DIGEST_BYTES, Digest, Seal},
};

/// Size of what precedes the content, in bytes.
const HEADER_BYTES: usize = 32;

/// Contents up to this size are not compressed: there is nothing to gain.
const COMPRESS_ABOVE_BYTES: usize = 4096;

/// Level of compression: these objects are on the way to a commit.
const ZSTD_LEVEL: i32 = 1;

/// A declared content may be at most this many times larger than its stored form, beyond
/// [`RATIO_FREE_BYTES`]. Real manifests stay below 10: digests do not compress.
const RATIO_MAX: u64 = 64;

/// Contents up to this size may have any ratio, in bytes.
const RATIO_FREE_BYTES: u64 = 1 << 20;

const CODING_RAW: u8 = 0;
const CODING_ZSTD: u8 = 1;

/// What kind of object an envelope holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) object: Object,
    pub(crate) magic: &'static [u8; 8],
    /// Largest decoded content, in bytes.
    pub(crate) content_bytes_max: u64,
}

/// Wraps `content`, and gives the digest too: whoever names the object keeps it.
pub(crate) fn wrap(
    kind: Kind,
    content: &[u8],
    seal: &Seal,
) -> Result<(Bytes, Digest), FormatError> {
    let size = content.len() as u64;
    check_size(kind, size)?;
    let compressed = compress(kind, content)?;
    let (coding, stored) = match &compressed {
        Some(compressed) => (CODING_ZSTD, compressed.as_slice()),
        None => (CODING_RAW, content),
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + stored.len() + DIGEST_BYTES);
    out.extend_from_slice(kind.magic);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[seal.kind(), coding, 0, 0, 0, 0]);
    out.extend_from_slice(&seal.key_id().0);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(stored);
    let digest = seal.digest(kind.object, &[&out]);
    out.extend_from_slice(&digest);
    Ok((out.into(), digest))
}

/// Checks an envelope and gives its content and its digest.
pub(crate) fn unwrap(
    kind: Kind,
    bytes: &[u8],
    seal: &Seal,
) -> Result<(Bytes, Digest), FormatError> {
    let object = kind.object;
    let needed = HEADER_BYTES + DIGEST_BYTES;
    let truncated = FormatError::Truncated {
        object,
        needed: needed as u64,
        found: bytes.len() as u64,
    };
    let Some((body, digest)) = bytes.split_last_chunk::<DIGEST_BYTES>() else {
        return Err(truncated);
    };
    let Some((header, stored)) = body.split_first_chunk::<HEADER_BYTES>() else {
        return Err(truncated);
    };
    if !header.starts_with(kind.magic) {
        return Err(FormatError::Magic { object });
    }
    check_version(object, u16::from_le_bytes([header[8], header[9]]))?;
    let mut key_id = KeyId::default();
    key_id.0.copy_from_slice(&header[16..24]);
    seal.accepts(object, header[10], key_id)?;
    seal.check(object, &[body], digest)?;

    let mut size = [0; 8];
    size.copy_from_slice(&header[24..32]);
    let content = decompress(kind, header[11], stored, u64::from_le_bytes(size))?;
    Ok((content, *digest))
}

/// Fails unless `found` is a version that this program reads.
pub(crate) fn check_version(object: Object, found: u16) -> Result<(), FormatError> {
    if (FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&found) {
        return Ok(());
    }
    Err(FormatError::Version {
        object,
        found,
        oldest: FORMAT_VERSION_OLDEST,
        newest: FORMAT_VERSION,
    })
}

fn check_size(kind: Kind, found: u64) -> Result<(), FormatError> {
    if found <= kind.content_bytes_max {
        return Ok(());
    }
    let problem = Problem::TooLarge {
        found,
        most: kind.content_bytes_max,
    };
    Err(FormatError::invalid(kind.object, "content size", problem))
}

fn compress(kind: Kind, content: &[u8]) -> Result<Option<Vec<u8>>, FormatError> {
    if content.len() <= COMPRESS_ABOVE_BYTES {
        return Ok(None);
    }
    let compressed =
        zstd::bulk::compress(content, ZSTD_LEVEL).map_err(|source| FormatError::Compress {
            object: kind.object,
            bytes: content.len() as u64,
            source,
        })?;
    let readable = content.len() as u64 <= content_limit(compressed.len());
    Ok((compressed.len() < content.len() && readable).then_some(compressed))
}

fn decompress(kind: Kind, coding: u8, stored: &[u8], size: u64) -> Result<Bytes, FormatError> {
    check_size(kind, size)?;
    let failed = || FormatError::Decompress {
        object: kind.object,
        expected: size,
    };
    match coding {
        CODING_RAW if stored.len() as u64 == size => Ok(Bytes::copy_from_slice(stored)),
        CODING_ZSTD if size <= content_limit(stored.len()) => {
            // A slice of the exact size bounds the output to the byte.
            let mut content = vec![0; usize::try_from(size).map_err(|_| failed())?];
            let written = zstd::bulk::decompress_to_buffer(stored, content.as_mut_slice());
            let complete = written.is_ok_and(|written| written == content.len());
            if complete {
                Ok(content.into())
            } else {
                Err(failed())
            }
        }
        _ => Err(failed()),
    }
}

/// The largest content that so many stored bytes may declare.
fn content_limit(stored: usize) -> u64 {
    (stored as u64)
        .saturating_mul(RATIO_MAX)
        .max(RATIO_FREE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        object: Object::Head,
        magic: b"LBTEST01",
        content_bytes_max: 8 << 20,
    };

    #[test]
    fn contents_come_back_as_they_were() {
        let zeros = vec![0; 5 << 20];
        let text = b"some text, again and again. ".repeat(1000);
        for content in [b"".as_slice(), b"x", &text, &zeros] {
            let (bytes, digest) = wrap(KIND, content, &Seal::plain()).unwrap();
            assert!(bytes.len() <= content.len() + HEADER_BYTES + DIGEST_BYTES);
            let (back, same) = unwrap(KIND, &bytes, &Seal::plain()).unwrap();
            assert_eq!(back, content);
            assert_eq!(same, digest);
        }
    }

    #[test]
    fn a_declared_size_is_checked_before_memory_is_taken() {
        for (size, stored) in [(u64::MAX, 10), (9 << 20, 10), (2 << 20, 10)] {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(KIND.magic);
            bytes.extend_from_slice(&[1, 0, 0, CODING_ZSTD, 0, 0, 0, 0]);
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(&u64::to_le_bytes(size));
            bytes.extend_from_slice(&vec![0; stored]);
            bytes.extend_from_slice(&Seal::plain().digest(KIND.object, &[&bytes]));
            assert!(unwrap(KIND, &bytes, &Seal::plain()).is_err(), "{size}");
        }
    }

    #[test]
    fn another_major_version_is_named_in_the_error() {
        let (bytes, _) = wrap(KIND, b"x", &Seal::plain()).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[8] = 9;
        assert!(matches!(
            unwrap(KIND, &bytes, &Seal::plain()),
            Err(FormatError::Version { found: 9, .. })
        ));
    }
}
