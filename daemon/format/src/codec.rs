//! Compression of frames.
//!
//! An [`Encoder`] and a [`Decoder`] belong to one thread each and keep their contexts and scratch
//! memory, so that nothing is allocated for a frame once the output buffer has grown. An encoder
//! never fails: content that does not compress well is stored as it is. A decoder trusts nothing:
//! it writes at most the expected number of bytes, and any other number is an error.

use std::{fmt, io::Cursor};

use lifeboat_proto::{image, units::PAGE_BYTES};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};
use zstd::bulk::{Compressor, Decompressor};

use crate::{
    error::{FormatError, Object, Problem},
    frame::FRAME_BYTES_MAX,
};

/// How a frame is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    Raw,
    /// LZ4 block.
    Lz4,
    /// Zstandard frame.
    Zstd,
}

/// How much time compression may take. The planner chooses it for each frame.
///
/// Measured on frames of 256 KiB of real memory without zero pages (redis, Python, Node.js, Java,
/// text), on one core: LZ4 encodes 0.8–1.5 GB/s, decodes 2.4–5 GB/s and stores 20–34 %; Zstandard 1
/// encodes 0.6–1.1, decodes 1.8–3 and stores 8–19 %; level 3 is slower and *larger* than 1 for most;
/// level 6 encodes 0.11–0.18 and stores 1–8 % less than 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    /// None: stored as it is. The link is faster than compression.
    None,
    /// LZ4: the link carries more than about 700 MB/s for each encoding core.
    Fast,
    /// Zstandard level 1: what is best otherwise.
    Balanced,
    /// Zstandard level 6: the link carries less than about 20 MB/s for each encoding core.
    Small,
}

/// Inputs above this size are probed with a sample first, in bytes.
pub const PROBE_ABOVE_BYTES: usize = 32 << 10;

/// Size of one piece of a sample, in bytes.
const SAMPLE_PIECE_BYTES: usize = 1 << 10;

/// Pieces of a sample, evenly spread over the input: pages differ, so many small pieces say more
/// than a few large ones.
const SAMPLE_PIECES: usize = 16;

/// Compression pays when at least this share is saved: 1/12, 8 %. Uniformly random numbers in
/// floating point save 6 %, for which the reader would pay with most of its speed.
const GAIN_DIVISOR: usize = 12;

const ZSTD_BALANCED: i32 = 1;
const ZSTD_SMALL: i32 = 6;

/// Compresses frames. One per encoding thread.
pub struct Encoder {
    zstd: Option<Compressor<'static>>,
    zstd_level: i32,
    lz4_table: CompressTable,
    sample: Vec<u8>,
    scratch: Vec<u8>,
}

/// Decompresses frames. One per decoding thread.
pub struct Decoder {
    zstd: Option<Decompressor<'static>>,
}

impl Encoder {
    /// An encoder that allocates its contexts at first use.
    #[must_use]
    pub fn new() -> Self {
        Self {
            zstd: None,
            zstd_level: 0,
            lz4_table: CompressTable::large(),
            sample: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Replaces the content of `out` by the encoded `raw`, and tells how it is encoded. `out` is
    /// never longer than `raw`.
    pub fn encode(&mut self, raw: &[u8], effort: Effort, out: &mut Vec<u8>) -> Codec {
        out.clear();
        self.append(raw, effort, out)
    }

    /// Like [`Encoder::encode`], but appends to `out`: what is there stays.
    pub fn append(&mut self, raw: &[u8], effort: Effort, out: &mut Vec<u8>) -> Codec {
        self.compress(raw, effort, out).unwrap_or_else(|| {
            out.extend_from_slice(raw);
            Codec::Raw
        })
    }

    /// Like [`Encoder::append`], but copies nothing: `None` means that `raw` is to be stored as it is,
    /// and `out` is as before.
    pub fn compress(&mut self, raw: &[u8], effort: Effort, out: &mut Vec<u8>) -> Option<Codec> {
        let begin = out.len();
        let limit = worthwhile_bytes(raw.len());
        if effort != Effort::None && limit > 0 && self.sample_pays(raw, effort) {
            let done = match effort {
                Effort::None => None,
                Effort::Fast => self.append_lz4(raw, out),
                Effort::Balanced => self.append_zstd(raw, ZSTD_BALANCED, out),
                Effort::Small => self.append_zstd(raw, ZSTD_SMALL, out),
            };
            if let Some(codec) = done
                && out.len() - begin <= limit
            {
                return Some(codec);
            }
            out.truncate(begin);
        }
        None
    }

    /// Whether a sample of a larger input becomes enough smaller. Small inputs need no sample.
    fn sample_pays(&mut self, raw: &[u8], effort: Effort) -> bool {
        if raw.len() <= PROBE_ABOVE_BYTES {
            return true;
        }
        let mut sample = std::mem::take(&mut self.sample);
        sample.clear();
        let step = (raw.len() - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1);
        for piece in 0..SAMPLE_PIECES {
            let begin = piece * step;
            sample.extend_from_slice(&raw[begin..begin + SAMPLE_PIECE_BYTES]);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let done = match effort {
            Effort::Fast => self.append_lz4(&sample, &mut scratch),
            Effort::None | Effort::Balanced | Effort::Small => {
                self.append_zstd(&sample, ZSTD_BALANCED, &mut scratch)
            }
        };
        let pays = done.is_some() && scratch.len() <= worthwhile_bytes(sample.len());
        self.sample = sample;
        self.scratch = scratch;
        pays
    }

    fn append_lz4(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<Codec> {
        let begin = out.len();
        out.resize(
            begin + lz4_flex::block::get_maximum_output_size(raw.len()),
            0,
        );
        let written = compress_into_with_table(raw, &mut out[begin..], &mut self.lz4_table).ok();
        out.truncate(begin + written.unwrap_or(0));
        written.map(|_| Codec::Lz4)
    }

    fn append_zstd(&mut self, raw: &[u8], level: i32, out: &mut Vec<u8>) -> Option<Codec> {
        if self.zstd.is_none() {
            self.zstd = Compressor::new(level).ok();
            self.zstd_level = level;
        }
        let compressor = self.zstd.as_mut()?;
        if self.zstd_level != level {
            compressor.set_compression_level(level).ok()?;
            self.zstd_level = level;
        }
        let begin = out.len();
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let mut cursor = Cursor::new(out);
        cursor.set_position(begin as u64);
        let written = compressor.compress_to_buffer(raw, &mut cursor).ok();
        let out = cursor.into_inner();
        out.truncate(begin + written.unwrap_or(0));
        written.map(|_| Codec::Zstd)
    }
}

impl Decoder {
    /// A decoder that allocates its context at first use.
    #[must_use]
    pub fn new() -> Self {
        Self { zstd: None }
    }

    /// Replaces the content of `out` by the decoded `stored`, which must have exactly `raw_bytes`
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`FormatError::Decompress`] when `stored` is not what an encoder makes, or its content has
    /// another size, or `raw_bytes` is above [`FRAME_BYTES_MAX`]. `out` is empty then.
    pub fn decode(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let done = raw_bytes <= FRAME_BYTES_MAX && self.decode_into(codec, stored, raw_bytes, out);
        if done && out.len() == raw_bytes {
            return Ok(());
        }
        out.clear();
        Err(FormatError::Decompress {
            object: Object::Frame,
            expected: raw_bytes as u64,
        })
    }

    fn decode_into(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_bytes: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        // Decoders write every byte of `out`, or fail: what was there need not be cleared.
        match codec {
            Codec::Raw if stored.len() == raw_bytes => {
                out.clear();
                out.extend_from_slice(stored);
                true
            }
            Codec::Raw => false,
            Codec::Lz4 => {
                out.resize(raw_bytes, 0);
                decompress_into(stored, out).is_ok_and(|written| written == raw_bytes)
            }
            Codec::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = Decompressor::new().ok();
                }
                // A slice bounds the output to the byte; a vector's spare capacity would not.
                out.resize(raw_bytes, 0);
                self.zstd.as_mut().is_some_and(|zstd| {
                    zstd.decompress_to_buffer(stored, out.as_mut_slice())
                        .is_ok_and(|written| written == raw_bytes)
                })
            }
        }
    }
}

/// The largest stored size that is worth the reader's decompression.
const fn worthwhile_bytes(raw_bytes: usize) -> usize {
    raw_bytes - raw_bytes.div_ceil(GAIN_DIVISOR)
}

/// Whether every byte of a page is zero. Such pages are not stored.
#[must_use]
pub fn is_zero_page(page: &[u8; PAGE_BYTES]) -> bool {
    // Most pages differ within the first words; chunks of 64 bytes let the compiler use vectors.
    page.as_chunks::<64>()
        .0
        .iter()
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
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

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("zstd_level", &self.zstd_level)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}
