//! One entry of an archive, and the values that its extended header is made of.

use std::path::PathBuf;

use crate::{attributes::Attributes, pax};

/// Version of the stream; readers refuse another.
pub(crate) const VERSION: &[u8] = b"1";

/// Key of the version, in the global header that begins a stream.
pub(crate) const KEY_VERSION: &[u8] = b"LIFEBOAT.version";

/// Key of the number of entries, in the global header that ends a stream.
pub(crate) const KEY_ENTRIES: &[u8] = b"LIFEBOAT.entries";

/// What stands before the name of an extended attribute, as star and GNU tar write it.
pub(crate) const KEY_XATTR: &[u8] = b"SCHILY.xattr.";

/// One entry without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: PathBuf,
    pub(crate) attributes: Attributes,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// `size` bytes follow.
    Regular {
        size: u64,
    },
    /// A map and its data follow, `stored` bytes together; the file has `size` bytes.
    Sparse {
        size: u64,
        stored: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    HardLink {
        target: PathBuf,
    },
    Fifo,
}

/// Seconds with nine decimals, exact also before 1970.
pub(crate) fn time_to_text((seconds, nanos): (i64, u32)) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    format!(
        "{sign}{}.{:09}",
        total / 1_000_000_000,
        total % 1_000_000_000
    )
}

pub(crate) fn time_from_text(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let seconds = i128::from(pax::decimal(&text[..dot])?);
    let mut nanos = 0;
    let decimals = text.get(dot + 1..).unwrap_or_default();
    for place in 0..9 {
        let digit = decimals.get(place).copied().unwrap_or(b'0');
        nanos = nanos * 10 + i128::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    let total = seconds * 1_000_000_000 + nanos;
    let total = if negative { -total } else { total };
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some((
        seconds,
        u32::try_from(total.rem_euclid(1_000_000_000)).ok()?,
    ))
}

/// Key of an extended attribute. `=` would end the key; GNU tar writes it and `%` as here.
pub(crate) fn xattr_to_key(name: &[u8]) -> Vec<u8> {
    let mut key = KEY_XATTR.to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            _ => key.push(*byte),
        }
    }
    key
}

/// Undoes [`xattr_to_key`].
pub(crate) fn xattr_from_key(key: &[u8]) -> Option<Vec<u8>> {
    let name = key.strip_prefix(KEY_XATTR)?;
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match byte {
            b'%' if tail.starts_with(b"3D") => (b'=', &tail[2..]),
            b'%' if tail.starts_with(b"25") => (b'%', &tail[2..]),
            b'%' => return None,
            _ => (byte, tail),
        };
        out.push(byte);
        rest = tail;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_before_1970_are_exact() {
        assert_eq!(time_to_text((-2, 500_000_000)), "-1.500000000");
        assert_eq!(time_from_text(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time_from_text(b"7"), Some((7, 0)));
        for bad in [&b""[..], b".5", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time_from_text(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn times_come_back(seconds in any::<i64>(), nanos in 0u32..1_000_000_000) {
            let text = time_to_text((seconds, nanos));
            prop_assert_eq!(time_from_text(text.as_bytes()), Some((seconds, nanos)));
        }
    }
}
