//! The one error of this crate: what was read, where in it, and what is wrong with it.
//!
//! Everything that reaches this crate from a store is hostile, so every message says which object
//! and which field; no error is ever answered with a default value.

use std::fmt;

use lifeboat_proto::id::IdError;

/// A kind of stored object, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A checkpoint's manifest.
    Manifest,
    /// A workload's head.
    Head,
    /// An object of frames.
    Pack,
    /// A frame inside a pack.
    Frame,
    /// The name of an object.
    Key,
}

/// Why bytes or values are not what Lifeboat stores.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// There are fewer bytes than the object needs.
    #[error("{object} is cut short: it needs {needed} bytes and has {found}")]
    Truncated {
        /// What was read.
        object: Object,
        /// Smallest size that could be right, in bytes.
        needed: u64,
        /// Size that was found, in bytes.
        found: u64,
    },
    /// The object does not begin (or end) with its magic bytes.
    #[error("{object} is not one: its magic bytes are wrong")]
    Magic {
        /// What was expected.
        object: Object,
    },
    /// Written by a newer or a much older Lifeboat.
    #[error(
        "{object} has format version {found}; this program reads versions {oldest} to {newest}"
    )]
    Version {
        /// What was read.
        object: Object,
        /// Its version.
        found: u16,
        /// The oldest version that can be read.
        oldest: u16,
        /// The newest version that can be read.
        newest: u16,
    },
    /// Sealed with a key while none is configured.
    #[error("{object} is sealed with store key {key_id}, and no key is configured")]
    KeyMissing {
        /// What was read.
        object: Object,
        /// Identifier of the key that sealed it.
        key_id: KeyId,
    },
    /// Sealed with another key, or not sealed at all while a key is configured.
    #[error("{object} is sealed with {found}, and the configured store key is {configured}")]
    KeyMismatch {
        /// What was read.
        object: Object,
        /// Identifier of the key that sealed it (all zero: none).
        found: KeyId,
        /// Identifier of the configured key.
        configured: KeyId,
    },
    /// The bytes are not those that were written.
    #[error("{object} fails its integrity check: its bytes are not those that were written")]
    Digest {
        /// What was read.
        object: Object,
    },
    /// The content does not decompress.
    #[error("{object} does not decompress to the {expected} bytes that it declares")]
    Decompress {
        /// What was read.
        object: Object,
        /// Declared size, in bytes.
        expected: u64,
    },
    /// The compressor failed. Means memory ran out.
    #[error("compressing {object} of {bytes} bytes failed")]
    Compress {
        /// What was written.
        object: Object,
        /// Its size, in bytes.
        bytes: u64,
        /// The compressor's reason.
        #[source]
        source: std::io::Error,
    },
    /// The content is not the expected message.
    #[error("{object} does not parse")]
    Malformed {
        /// What was read.
        object: Object,
        /// The parser's reason.
        #[source]
        source: prost::DecodeError,
    },
    /// A field's value is not allowed.
    #[error("{object}: {field} {problem}")]
    Invalid {
        /// What was read or written.
        object: Object,
        /// Path of the field, for example `address_spaces[0].runs[17]`.
        field: String,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not there.
    #[error("is missing")]
    Missing,
    /// Too small, for a number, a size or a count.
    #[error("is {found}, at least {least} is needed")]
    TooSmall {
        /// The value.
        found: u64,
        /// Smallest allowed value.
        least: u64,
    },
    /// Too large, for a number, a size or a count.
    #[error("is {found}, at most {most} is allowed")]
    TooLarge {
        /// The value.
        found: u64,
        /// Largest allowed value.
        most: u64,
    },
    /// Two values that must be equal are not.
    #[error("is {found}, {expected} was expected")]
    Differs {
        /// The value.
        found: u64,
        /// What it must be.
        expected: u64,
    },
    /// An enumeration has a value that is unknown or may not be stored.
    #[error("has the unknown value {0}")]
    UnknownValue(i32),
    /// Begins before the end of its predecessor.
    #[error("is not after its predecessor")]
    NotAscending,
    /// Names something that was named before.
    #[error("is there twice")]
    Duplicate,
    /// Reaches beyond what contains it.
    #[error("reaches beyond its container")]
    Outside,
    /// Bytes of a wrong length.
    #[error("has {found} bytes, {expected} are expected")]
    Length {
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// A text that is not allowed here (a path in place of a name, a control character, …).
    #[error("has the text {0:?}, which is not allowed there")]
    Text(String),
    /// A name or an identifier that is not one.
    #[error("is not valid: {0}")]
    Id(IdError),
}

/// Names a store key without revealing it; all zero means that there is no key.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

impl FormatError {
    /// Whether the bytes themselves are damaged, so that fetching them again may help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. }
                | Self::Magic { .. }
                | Self::Digest { .. }
                | Self::Decompress { .. }
                | Self::Malformed { .. }
        )
    }

    /// Whether the reader's store key is the trouble.
    #[must_use]
    pub fn is_key_problem(&self) -> bool {
        matches!(self, Self::KeyMissing { .. } | Self::KeyMismatch { .. })
    }

    pub(crate) fn invalid(object: Object, field: impl Into<String>, problem: Problem) -> Self {
        Self::Invalid {
            object,
            field: field.into(),
            problem,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Head => "head",
            Self::Pack => "pack",
            Self::Frame => "frame",
            Self::Key => "object key",
        })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [0; 8] {
            f.write_str("no key")
        } else {
            f.write_str(&hex::encode(self.0))
        }
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
