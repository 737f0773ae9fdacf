//! What CRIU 4.2 writes wrongly, put right before it reads it.
//!
//! - A periodic timer (timerfd) that has expired and was not read yet: the kernel tells no time
//!   until its next expiration then, CRIU stores zero, and a timer that is set to zero is off. It
//!   gets its period as the time until the next expiration.
//!
//! Messages are changed in place: fields that are not known here stay as they are.

use bytes::Bytes;
use prost::{
    Message,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
    },
};

use super::{
    ImagesError,
    files::FILES_MAGIC,
    frame::{Reader, Writer},
};

/// The file that is repaired.
pub const NAME: &str = "files.img";

/// Field of a file's entry that holds a timer.
const TIMER: u32 = 12;

#[derive(Clone, PartialEq, Message)]
struct Timer {
    #[prost(uint64, required, tag = "7")]
    seconds: u64,
    #[prost(uint64, required, tag = "8")]
    nanoseconds: u64,
    #[prost(uint64, required, tag = "9")]
    period_seconds: u64,
    #[prost(uint64, required, tag = "10")]
    period_nanoseconds: u64,
}

/// [`NAME`] as CRIU should have written it.
///
/// # Errors
/// The file is malformed.
pub fn repair(bytes: &Bytes) -> Result<Bytes, ImagesError> {
    let mut reader = Reader::new(NAME, bytes, FILES_MAGIC)?;
    let mut writer = Writer::new(FILES_MAGIC);
    while let Some(message) = reader.message()? {
        let entry = entry(&message).ok_or_else(|| reader.malformed("a message"))?;
        writer.message(&entry);
    }
    Ok(writer.finish())
}

/// `None`: malformed.
fn entry(message: &[u8]) -> Option<Vec<u8>> {
    let mut rest = message;
    let mut repaired = Vec::with_capacity(message.len());
    while !rest.is_empty() {
        let field = rest;
        let (tag, wire) = decode_key(&mut rest).ok()?;
        if (tag, wire) == (TIMER, WireType::LengthDelimited) {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (timer, after) = rest.split_at_checked(length)?;
            rest = after;
            let timer = armed(timer)?;
            encode_key(tag, wire, &mut repaired);
            encode_varint(u64::try_from(timer.len()).ok()?, &mut repaired);
            repaired.extend(timer);
        } else {
            skip_field(wire, tag, &mut rest, DecodeContext::default()).ok()?;
            repaired.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Some(repaired)
}

/// A timer that is not off if it has a period. Of a field that is there twice the later one counts.
fn armed(message: &[u8]) -> Option<Vec<u8>> {
    let timer = Timer::decode(message).ok()?;
    let mut repaired = message.to_vec();
    let periodic = (timer.period_seconds, timer.period_nanoseconds) != (0, 0);
    if periodic && (timer.seconds, timer.nanoseconds) == (0, 0) {
        for (tag, value) in [(7, timer.period_seconds), (8, timer.period_nanoseconds)] {
            encode_key(tag, WireType::Varint, &mut repaired);
            encode_varint(value, &mut repaired);
        }
    }
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Entry {
        #[prost(uint32, required, tag = "1")]
        kind: u32,
        #[prost(message, optional, tag = "12")]
        timer: Option<Timer>,
        #[prost(string, optional, tag = "99")]
        unknown: Option<String>,
    }

    fn file(entries: &[Entry]) -> Bytes {
        let mut writer = Writer::new(FILES_MAGIC);
        entries.iter().for_each(|entry| writer.entry(entry));
        writer.finish()
    }

    fn timer(seconds: u64, nanoseconds: u64, period: u64) -> Entry {
        let timer = Timer {
            seconds,
            nanoseconds,
            period_seconds: period,
            period_nanoseconds: period * 7,
        };
        Entry {
            kind: 17,
            timer: Some(timer),
            unknown: Some("kept".into()),
        }
    }

    fn repaired(entry: Entry) -> Entry {
        let bytes = repair(&file(&[entry])).expect("well-formed");
        Reader::new(NAME, &bytes, FILES_MAGIC)
            .expect("a file")
            .required()
            .expect("an entry")
    }

    #[test]
    fn a_periodic_timer_is_never_off() {
        assert_eq!(repaired(timer(0, 0, 3)), timer(3, 21, 3));
        for fine in [
            timer(0, 5, 3),
            timer(2, 0, 3),
            timer(0, 0, 0),
            timer(0, 5, 0),
        ] {
            assert_eq!(repaired(fine.clone()), fine);
        }
        let other = Entry {
            kind: 1,
            timer: None,
            unknown: Some("kept".into()),
        };
        assert_eq!(repaired(other.clone()), other);
    }

    proptest! {
        #[test]
        fn any_entry_is_repaired_or_refused(message in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut writer = Writer::new(FILES_MAGIC);
            writer.message(&message);
            if let Ok(once) = repair(&writer.finish()) {
                prop_assert_eq!(repair(&once), Ok(once));
            }
        }
    }
}
