//! What compression promises.

use lifeboat_format::{Codec, Decoder, Effort, Encoder, FRAME_BYTES_MAX, is_zero_page};
use lifeboat_proto::units::PAGE_BYTES;

const EFFORTS: [Effort; 4] = [Effort::None, Effort::Fast, Effort::Balanced, Effort::Small];

fn noise(bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

fn text(bytes: usize) -> Vec<u8> {
    (0..)
        .flat_map(|n: u32| format!("line {n} of a log\n").into_bytes())
        .take(bytes)
        .collect()
}

#[test]
fn every_effort_gives_back_what_was_encoded() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    for content in [
        noise(1),
        text(1),
        noise(4096),
        text(4096),
        noise(1 << 18),
        text(1 << 20),
    ] {
        for effort in EFFORTS {
            let codec = encoder.encode(&content, effort, &mut stored);
            assert!(stored.len() <= content.len());
            decoder
                .decode(codec, &stored, content.len(), &mut raw)
                .unwrap();
            assert_eq!(raw, content);
        }
    }
}

#[test]
fn noise_is_stored_as_it_is_and_text_is_not() {
    let mut encoder = Encoder::new();
    let mut stored = Vec::new();
    for effort in EFFORTS {
        assert_eq!(
            encoder.encode(&noise(1 << 18), effort, &mut stored),
            Codec::Raw
        );
        assert_eq!(
            encoder.encode(&noise(4096), effort, &mut stored),
            Codec::Raw
        );
        let codec = encoder.encode(&text(1 << 18), effort, &mut stored);
        assert_eq!(codec == Codec::Raw, effort == Effort::None);
    }
}

#[test]
fn append_keeps_what_is_there() {
    let mut encoder = Encoder::new();
    let content = text(1 << 16);
    for effort in EFFORTS {
        let (mut alone, mut after) = (Vec::new(), b"before".to_vec());
        encoder.encode(&content, effort, &mut alone);
        encoder.append(&content, effort, &mut after);
        assert_eq!(after, [b"before".as_slice(), &alone].concat());
    }
}

#[test]
fn another_size_than_expected_is_an_error() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    for effort in EFFORTS {
        let codec = encoder.encode(&text(8192), effort, &mut stored);
        for wrong in [
            0,
            1,
            8191,
            8193,
            FRAME_BYTES_MAX,
            FRAME_BYTES_MAX + 1,
            usize::MAX,
        ] {
            assert!(
                decoder.decode(codec, &stored, wrong, &mut raw).is_err(),
                "{wrong}"
            );
            assert!(raw.is_empty());
        }
    }
}

#[test]
fn nothing_is_allocated_for_a_frame_once_buffers_have_grown() {
    let mut encoder = Encoder::new();
    let mut stored = Vec::new();
    encoder.encode(&text(1 << 18), Effort::Fast, &mut stored);
    encoder.encode(&text(1 << 18), Effort::Small, &mut stored);
    let before = (stored.capacity(), stored.as_ptr());
    for effort in EFFORTS {
        encoder.encode(&text(1 << 18), effort, &mut stored);
        assert_eq!((stored.capacity(), stored.as_ptr()), before);
    }
}

#[test]
fn a_zero_page_has_no_other_byte() {
    let mut page = [0; PAGE_BYTES];
    assert!(is_zero_page(&page));
    for at in [0, 1, 63, 64, 4000, 4095] {
        page[at] = 0x80;
        assert!(!is_zero_page(&page), "{at}");
        page[at] = 0;
    }
}
