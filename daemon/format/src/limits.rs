//! Limits that must be checked before a message is parsed.
//!
//! An element of a repeated field takes two bytes in a message and a hundred in memory, so a parser
//! can be made to allocate many times what was sent. This looks at the outer fields of a message
//! only, without allocating.

use crate::error::{FormatError, Object, Problem};

/// What one field of a message may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldLimit {
    /// Number of the field.
    number: usize,
    /// Its name.
    name: &'static str,
    /// How often it may be there.
    times: usize,
    /// How many bytes each may have.
    bytes: usize,
}

impl FieldLimit {
    /// A field that may be there so many times, with so many bytes each.
    pub(crate) const fn each(
        number: usize,
        name: &'static str,
        times: usize,
        bytes: usize,
    ) -> Self {
        Self {
            number,
            name,
            times,
            bytes,
        }
    }

    /// A field that may be there so many times, of any size.
    pub(crate) const fn times(number: usize, name: &'static str, times: usize) -> Self {
        Self::each(number, name, times, usize::MAX)
    }
}

/// Fails when a field is there too often or is too large. What is no message at all passes: the
/// parser stops at the same place.
pub(crate) fn check(
    object: Object,
    message: &[u8],
    limits: &[FieldLimit],
) -> Result<(), FormatError> {
    let mut times = vec![0; limits.len()];
    let mut rest = message;
    while !rest.is_empty() {
        let Ok(key) = prost::decode_length_delimiter(&mut rest) else {
            break;
        };
        let size = match key & 7 {
            0 => prost::decode_length_delimiter(&mut rest).map(|_| 0),
            1 => Ok(8),
            2 => prost::decode_length_delimiter(&mut rest),
            5 => Ok(4),
            // Groups would hide what is inside of them; nothing that we write has any.
            group => {
                let problem = Problem::UnknownValue(i32::try_from(group).unwrap_or(i32::MAX));
                return Err(FormatError::invalid(object, "wire type", problem));
            }
        };
        let Ok(size) = size else { break };
        if let Some(at) = limits.iter().position(|limit| limit.number == key >> 3) {
            let limit = &limits[at];
            times[at] += 1;
            at_most(object, limit.name, times[at], limit.times)?;
            at_most(object, limit.name, size, limit.bytes)?;
        }
        let Some(next) = rest.get(size..) else { break };
        rest = next;
    }
    Ok(())
}

fn at_most(object: Object, field: &str, found: usize, most: usize) -> Result<(), FormatError> {
    if found <= most {
        return Ok(());
    }
    let problem = Problem::TooLarge {
        found: found as u64,
        most: most as u64,
    };
    Err(FormatError::invalid(object, field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &[FieldLimit] = &[
        FieldLimit::each(9, "nine", 3, 2),
        FieldLimit::each(100, "hundred", 1, 0),
    ];

    fn run(message: &[u8]) -> Result<(), String> {
        check(Object::Head, message, LIMITS).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_are_counted_before_they_are_parsed() {
        assert_eq!(run(b""), Ok(()));
        // Fields 1 (number), 2 (8 bytes), 3 (4 bytes) and 4 (text) have no limit.
        assert_eq!(
            run(b"\x08\xff\x01\x1112345678\x1d1234\x22\x05texts\x4a\x00"),
            Ok(())
        );
        assert_eq!(run(&b"\x4a\x00".repeat(3)), Ok(()));
        let error = run(&b"\x4a\x00".repeat(4)).unwrap_err();
        assert_eq!(error, "head: nine is 4, at most 3 is allowed");
        let error = run(b"\x4a\x03abc").unwrap_err();
        assert_eq!(error, "head: nine is 3, at most 2 is allowed");
        let error = run(&b"\xa2\x06\x00".repeat(2)).unwrap_err();
        assert_eq!(error, "head: hundred is 2, at most 1 is allowed");
    }

    #[test]
    fn groups_cannot_hide_fields() {
        assert!(run(&[b"\x0b".as_slice(), &b"\x4a\x00".repeat(9)].concat()).is_err());
    }

    #[test]
    fn what_is_cut_short_is_left_to_the_parser() {
        for message in [
            &b"\x4a"[..],
            b"\x4a\x02x",
            b"\x11123",
            b"\x08\xff",
            &[0xff; 11],
        ] {
            assert_eq!(run(message), Ok(()));
        }
    }
}
