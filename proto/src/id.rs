//! Names and identifiers, validated where they enter.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Why a name or an identifier was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a workload's name.
    #[error(
        "workload name {0:?} is not allowed: use 1 to 63 letters, digits, '-', '_' or '.', \
         beginning and ending with a letter or digit"
    )]
    Workload(String),
    /// Not a checkpoint's id.
    #[error("checkpoint id {0:?} is not a UUID")]
    Checkpoint(String),
    /// Not a pack's id.
    #[error("pack id {0:?} is not 16 bytes")]
    Pack(String),
}

/// Most characters of a refused text that an error repeats: it may have come from anywhere.
const REPEATED_MAX: usize = 80;

/// The text, or its beginning if it is long.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(REPEATED_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A workload's stable name. It is part of object keys, of paths and of log lines, so it is narrow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadName(String);

/// Longest workload name, in bytes.
pub const WORKLOAD_NAME_BYTES_MAX: usize = 63;

/// A checkpoint's id: a UUID of version 7, so that ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId(Uuid);

/// A pack's id: the first 16 bytes of the digest in its footer, which covers all of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub [u8; 16]);

/// Fencing epoch of a workload: grows by one with each claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl WorkloadName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkloadName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let bytes = text.as_bytes();
        let fits = bytes.len() <= WORKLOAD_NAME_BYTES_MAX
            && edge(bytes.first().copied())
            && edge(bytes.last().copied())
            && bytes
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Workload(beginning(text)))
        }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl CheckpointId {
    /// A new id, later than all before.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for CheckpointId {
    fn default() -> Self {
        Self::new()
    }
}

impl FromStr for CheckpointId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| IdError::Checkpoint(beginning(text)))
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<&[u8]> for PackId {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| IdError::Pack(beginning(&hex::encode(bytes))))
    }
}

impl PackId {
    /// All 32 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..8])
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_names_cannot_leave_their_place() {
        for good in ["a", "redis-0", "Job_7.b", &"x".repeat(63)] {
            assert!(good.parse::<WorkloadName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-a",
            "a-",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<WorkloadName>().is_err(), "{bad}");
        }
    }
}
