//! Records of a pax extended header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
//!
//! The `tar` crate's own reader splits records at newlines, which cuts binary values (extended
//! attributes, names) apart; this one goes by the length, as POSIX has it.

/// Most bytes of one extended header. The kernel limits the names of a file's extended attributes to
/// 64 KiB and each value to 64 KiB; this leaves room for dozens of the largest.
pub(crate) const PAX_BYTES_MAX: usize = 4 << 20;

/// Appends one record. `key` must not contain `=`.
pub(crate) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    debug_assert!(!key.contains(&b'='));
    // The length counts its own digits: grow it until it fits.
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The records of an extended header as key and value, or `None` if it is malformed.
pub(crate) fn parse(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&b| b == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..length)?;
        let (&newline, record) = record.split_last()?;
        let equals = record.iter().position(|&b| b == b'=')?;
        if newline != b'\n' {
            return None;
        }
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// An unsigned decimal number of plain digits.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_what_posix_shows() {
        let mut out = Vec::new();
        push(&mut out, b"ctime", b"1084839148.1212");
        assert_eq!(out, b"25 ctime=1084839148.1212\n");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5"[..],
            b"5 a=b",
            b"6 a=bX",
            b"99 a=b\n",
            b"4 ab\n",
            b"0 a=b\n",
            b"2 ",
            b"-6 a=b\n",
            b"99999999999999999999999 a=b\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn records_come_back_whatever_their_bytes(
            records in prop::collection::vec(
                ("[A-Za-z.]{1,20}", prop::collection::vec(any::<u8>(), 0..300)), 0..8)
        ) {
            let mut out = Vec::new();
            for (key, value) in &records {
                push(&mut out, key.as_bytes(), value);
            }
            let parsed = parse(&out).unwrap();
            prop_assert_eq!(parsed.len(), records.len());
            for ((key, value), (k, v)) in records.iter().zip(parsed) {
                prop_assert_eq!(key.as_bytes(), k);
                prop_assert_eq!(&value[..], v);
            }
        }

        #[test]
        fn parsing_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _parsed = parse(&bytes);
        }
    }
}
