//! What is written: a function of its number, so that it can be checked without being kept.

/// Bytes of a value that nobody changes.
pub(super) const VALUE_BYTES: usize = 64 << 10;

/// Keys that the writer goes round.
pub(super) const WRITTEN_KEYS: u64 = 20_000;

/// Values of `size` bytes of data.
pub(super) fn values_of(size: u64) -> u64 {
    size.div_ceil(VALUE_BYTES as u64)
}

/// Key of a value that nobody changes.
pub(crate) fn data_key(number: u64) -> Vec<u8> {
    format!("data:{number:08}").into_bytes()
}

/// A value that nobody changes: half of it is noise, half compresses well, as in many caches.
pub(super) fn data_value(number: u64, value: &mut Vec<u8>) {
    value.clear();
    value.resize(VALUE_BYTES, 0);
    let mut noise = blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof();
    for (index, block) in value.chunks_mut(512).enumerate() {
        if index % 2 == 0 {
            noise.fill(block);
        } else {
            for (at, byte) in block.iter_mut().enumerate() {
                *byte = b"lifeboat "[at % 9];
            }
        }
    }
}

/// Key of write `number`.
pub(super) fn written_key(number: u64) -> Vec<u8> {
    format!("written:{}", number % WRITTEN_KEYS).into_bytes()
}

/// Value of write `number`.
pub(super) fn written_value(number: u64) -> Vec<u8> {
    let digest = blake3::hash(&number.to_le_bytes());
    format!("{number} {}", digest.to_hex()).into_bytes()
}

/// The number of the write that left this value, if it is one.
pub(super) fn number_of(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let number = text.split_once(' ')?.0.parse().ok()?;
    (written_value(number) == value).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_number_and_an_altered_one_does_not() {
        let mut value = written_value(77);
        assert_eq!(number_of(&value), Some(77));
        value[0] = b'8';
        assert_eq!(number_of(&value), None);
        assert_eq!(number_of(b""), None);
    }

    #[test]
    fn data_is_the_same_every_time_and_differs_from_value_to_value() {
        let (mut one, mut same, mut other) = (Vec::new(), Vec::new(), Vec::new());
        data_value(1, &mut one);
        data_value(1, &mut same);
        data_value(2, &mut other);
        assert_eq!(one, same);
        assert_ne!(one, other);
    }
}
