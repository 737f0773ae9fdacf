//! How an image file is made up: two magic numbers, then entries of a u32 length and a message.
//! `inventory.img` has one magic number only.

use bytes::Bytes;
use prost::Message;

use super::ImagesError;

/// First magic number of every image file but the inventory (`IMG_COMMON_MAGIC`).
const COMMON_MAGIC: u32 = 0x5456_4319;

/// Longest image file that is taken apart, in bytes. The pagemap of a terabyte in single pages is
/// the longest that can be honest.
pub const DECODED_BYTES_MAX: usize = 256 << 20;

/// Longest single message, in bytes. The mappings of a process are one message; there are at most
/// 65 530 of them, of about 60 bytes.
const MESSAGE_BYTES_MAX: u32 = 16 << 20;

/// Reads one image file.
pub(super) struct Reader<'a> {
    name: &'a str,
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Checks the magic numbers.
    pub(super) fn new(name: &'a str, bytes: &'a Bytes, magic: u32) -> Result<Self, ImagesError> {
        let mut reader = Self::at_start(name, bytes);
        if bytes.len() > DECODED_BYTES_MAX {
            return Err(reader.malformed("a shorter file"));
        }
        if reader.word()? != COMMON_MAGIC || reader.word()? != magic {
            return Err(reader.malformed("its magic numbers"));
        }
        Ok(reader)
    }

    /// As [`Reader::new`], for a file that begins with its own magic number.
    pub(super) fn without_common(
        name: &'a str,
        bytes: &'a Bytes,
        magic: u32,
    ) -> Result<Self, ImagesError> {
        let mut reader = Self::at_start(name, bytes);
        if reader.word()? != magic {
            return Err(reader.malformed("its magic number"));
        }
        Ok(reader)
    }

    fn at_start(name: &'a str, bytes: &'a Bytes) -> Self {
        Self { name, bytes, at: 0 }
    }

    /// The next entry; `None` at the end of the file.
    pub(super) fn entry<M: Message + Default>(&mut self) -> Result<Option<M>, ImagesError> {
        let Some(message) = self.message()? else {
            return Ok(None);
        };
        M::decode(message)
            .map(Some)
            .map_err(|_| self.malformed("a message"))
    }

    /// The next entry as it is; `None` at the end of the file.
    pub(super) fn message(&mut self) -> Result<Option<Bytes>, ImagesError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let length = self.word()?;
        if length > MESSAGE_BYTES_MAX {
            return Err(self.malformed("a shorter message"));
        }
        self.raw(u64::from(length)).map(Some)
    }

    /// The next entry, which must be there.
    pub(super) fn required<M: Message + Default>(&mut self) -> Result<M, ImagesError> {
        self.entry()?.ok_or_else(|| self.malformed("an entry"))
    }

    /// The next bytes, as they are.
    pub(super) fn raw(&mut self, length: u64) -> Result<Bytes, ImagesError> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length));
        match end {
            Some(end) if end <= self.bytes.len() => {
                let raw = self.bytes.slice(self.at..end);
                self.at = end;
                Ok(raw)
            }
            _ => Err(self.malformed("more bytes")),
        }
    }

    fn word(&mut self) -> Result<u32, ImagesError> {
        let bytes = self.raw(4)?;
        <[u8; 4]>::try_from(&bytes[..])
            .map(u32::from_le_bytes)
            .map_err(|_| self.malformed("a number"))
    }

    /// An error at the current position.
    pub(super) fn malformed(&self, what: &'static str) -> ImagesError {
        ImagesError::Malformed {
            name: self.name.to_owned(),
            offset: self.at,
            what,
        }
    }
}

/// Writes one image file.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(magic: u32) -> Self {
        let mut bytes = COMMON_MAGIC.to_le_bytes().to_vec();
        bytes.extend(magic.to_le_bytes());
        Self(bytes)
    }

    pub(super) fn entry<M: Message>(&mut self, message: &M) {
        self.message(&message.encode_to_vec());
    }

    pub(super) fn message(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).expect("about as long as what was read");
        self.0.extend(length.to_le_bytes());
        self.0.extend_from_slice(message);
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }
}
