//! Which parts of a file hold data, and the GNU sparse format 1.0 in which a pax archive tells it:
//! the number of parts, then offset and length of each, one decimal number a line, filled up to a
//! block; the data of all parts follows.

use std::{io, os::fd::AsFd};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::pax::decimal;

/// Most parts of one file. A file with more is stored with its tail as one part, holes filled.
pub(crate) const SEGMENTS_MAX: usize = 1 << 20;

/// Size of a tar block, in bytes.
pub(crate) const BLOCK: usize = 512;

/// A part of a file that holds data, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The parts of `file` that hold data, within its first `size` bytes. A file system that knows no
/// holes gives one part.
pub(crate) fn segments(file: impl AsFd, size: u64) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(&file, SeekFrom::Hole(start)) {
            Ok(end) if found.len() + 2 < SEGMENTS_MAX => end.min(size),
            Ok(_) => size,
            // Truncated meanwhile; reading it will tell.
            Err(Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        found.push(Segment {
            offset: start,
            length: end - start,
        });
        at = end;
    }
    Ok(found)
}

/// The map as it stands before the data, in whole blocks. A file that ends with a hole gets an empty
/// part at its end: from that GNU tar knows where the end is.
pub(crate) fn encode(segments: &[Segment], size: u64) -> Vec<u8> {
    let end = segments.last().map_or(0, |last| last.offset + last.length);
    let tail = (end < size).then_some(Segment {
        offset: size,
        length: 0,
    });
    let mut text = format!("{}\n", segments.len() + usize::from(tail.is_some()));
    for segment in segments.iter().chain(&tail) {
        text.push_str(&format!("{}\n{}\n", segment.offset, segment.length));
    }
    let mut map = text.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads a map from the front of `input`, whole blocks. The parts are in order, do not overlap and
/// lie in the first `size` bytes; anything else is `InvalidData`.
pub(crate) fn decode(input: &mut impl io::Read, size: u64) -> io::Result<Vec<Segment>> {
    let mut numbers = Numbers {
        input,
        block: [0; BLOCK],
        at: BLOCK,
    };
    let count = numbers.next()?;
    let mut segments = Vec::new();
    let mut end = 0u64;
    if count > SEGMENTS_MAX as u64 {
        return Err(malformed("too many parts"));
    }
    for _ in 0..count {
        let segment = Segment {
            offset: numbers.next()?,
            length: numbers.next()?,
        };
        let next = segment.offset.checked_add(segment.length);
        match next.filter(|&next| segment.offset >= end && next <= size) {
            Some(next) => end = next,
            None => return Err(malformed("parts overlap or lie past the file's end")),
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// Decimal numbers, one a line, read block by block.
struct Numbers<'a, R> {
    input: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: io::Read> Numbers<'_, R> {
    fn next(&mut self) -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                self.input.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or_else(|| malformed("not a number")),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(malformed("a number is too long")),
            }
        }
    }
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("map of a sparse file: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holes_of_a_real_file_are_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        let found = segments(&file, 1 << 30).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].offset <= 1 << 20 && found[0].length <= 1 << 16,
            "{found:?}"
        );
    }

    #[test]
    fn maps_that_do_not_fit_the_file_are_refused() {
        for bad in [
            "1\n5\n6\n",
            "2\n4\n4\n6\n1\n",
            "1\n18446744073709551615\n2\n",
            "x\n",
            "1048577\n",
            "1\n",
        ] {
            let mut bytes = bad.as_bytes().to_vec();
            bytes.resize(BLOCK, 0);
            assert!(decode(&mut &bytes[..], 10).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn maps_come_back(gaps in prop::collection::vec((0u64..1 << 40, 1u64..1 << 40), 0..200)) {
            let mut end = 0;
            let segments: Vec<_> = gaps.iter().map(|&(gap, length)| {
                let segment = Segment { offset: end + gap, length };
                end = segment.offset + length;
                segment
            }).collect();
            let bytes = encode(&segments, end);
            let mut input = &bytes[..];
            prop_assert_eq!(decode(&mut input, end).unwrap(), &segments[..]);
            prop_assert!(input.is_empty());
            let decoded = decode(&mut &encode(&segments, end + 1)[..], end + 1).unwrap();
            prop_assert_eq!(&decoded[..segments.len()], &segments[..]);
            prop_assert_eq!(decoded[segments.len()..].to_vec(), [Segment { offset: end + 1, length: 0 }]);
        }

        #[test]
        fn any_bytes_as_a_map_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _result = decode(&mut &bytes[..], 1 << 20);
        }
    }
}
