//! Names of objects, narrow enough to be paths, URLs and log text everywhere.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest key, in bytes (S3 and GCS allow 1024, of which a URL's prefix takes a part).
pub const KEY_BYTES_MAX: usize = 512;

/// Longest segment of a key, in bytes (a file name may have 255).
pub const SEGMENT_BYTES_MAX: usize = 200;

/// Name of an object: segments of ASCII letters, digits, `-`, `_`, `.`, `=`, joined by `/`. No
/// segment is empty or begins with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// The beginning of keys: nothing, or whole segments.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

/// Why a key or prefix was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing at all.
    #[error("object key is empty")]
    Empty,
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("object key has {bytes} bytes, {KEY_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// One of the segments.
    #[error(
        "object key {key:?} has the segment {segment:?}: a segment is 1 to {SEGMENT_BYTES_MAX} \
         letters, digits, '-', '_', '.' or '=', and does not begin with '.'"
    )]
    Segment {
        /// The whole key.
        key: String,
        /// What is not allowed in it.
        segment: String,
    },
}

fn check(key: &str) -> Result<(), KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(KeyError::TooLong { bytes: key.len() });
    }
    for segment in key.split('/') {
        let fits = !segment.is_empty()
            && segment.len() <= SEGMENT_BYTES_MAX
            && !segment.starts_with('.')
            && segment
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.=".contains(&c));
        if !fits {
            return Err(KeyError::Segment {
                key: key.to_owned(),
                segment: segment.to_owned(),
            });
        }
    }
    Ok(())
}

impl Key {
    /// A key from its text.
    ///
    /// # Errors
    /// If the text is not a key.
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        check(text.as_ref())?;
        Ok(Self(text.as_ref().into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the key is under `prefix`.
    #[must_use]
    pub fn is_under(&self, prefix: &Prefix) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

impl Prefix {
    /// The beginning of every key.
    pub const ROOT: Self = Self(String::new());

    /// A prefix from whole segments, with or without a last `/`; empty text is [`Prefix::ROOT`].
    ///
    /// # Errors
    /// If the text is not the beginning of a key.
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::ROOT);
        }
        check(text)?;
        Ok(Self(format!("{text}/")))
    }

    /// The prefix as text: empty, or ending with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl FromStr for Prefix {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_leave_their_folder_or_hide_in_it() {
        for bad in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", "a/.", ".tmp/x", "a b", "a\\b",
        ] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["é", "a\n", "a\0", "a%2fb", "a?b", "a#b", "a*", "a:b"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for good in [
            "a",
            "packs/0f/3a9c",
            "workloads/x.y/checkpoints/00000001-abc",
            "k=v/a_b-c",
        ] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn key_length_is_bounded() {
        let long = vec!["a".repeat(SEGMENT_BYTES_MAX); 3].join("/");
        assert_eq!(
            Key::new(&long),
            Err(KeyError::TooLong { bytes: long.len() })
        );
        assert!(Key::new(&long[..KEY_BYTES_MAX]).is_ok());
        assert!(Key::new("a".repeat(SEGMENT_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn prefixes_end_at_segments() {
        let key = Key::new("packs/0f/3a").unwrap();
        assert!(key.is_under(&Prefix::ROOT));
        assert!(key.is_under(&Prefix::new("packs").unwrap()));
        assert!(key.is_under(&Prefix::new("packs/0f/").unwrap()));
        assert!(!key.is_under(&Prefix::new("packs/0").unwrap()));
        assert!(Prefix::new("a//").is_err());
    }
}
