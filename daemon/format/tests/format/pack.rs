//! What a pack promises to whoever reads it.

use crate::sample;
use bytes::Bytes;
use lifeboat_format::{
    Codec, Decoder, Effort, Encoder, FormatError, FrameOwner, PackBuilder, PackDirectory, Seal,
    StoredFrame,
    pack::{PACK_BYTES_MAX, PACK_BYTES_TARGET, recycle},
};

#[test]
fn frames_are_found_by_directory_and_by_reference() {
    for seal in [Seal::plain(), Seal::keyed(&sample::key())] {
        let (pack, bytes, frames, contents) = sample::pack(&seal);
        let directory = PackDirectory::verify(&bytes, 0, &seal).unwrap();
        assert_eq!(directory.id, pack.id);
        assert_eq!(directory.origin, sample::origin());
        let found: Vec<_> = directory.entries.iter().map(|entry| entry.frame).collect();
        assert_eq!(found, frames);
        let codecs: Vec<_> = frames.iter().map(|frame| frame.codec).collect();
        assert_eq!(
            codecs,
            [Codec::Raw, Codec::Lz4, Codec::Zstd, Codec::Raw, Codec::Raw]
        );
        for (frame, content) in frames.iter().zip(&contents) {
            let stored = StoredFrame::from_range(&bytes, 0, frame).unwrap();
            let verified = stored
                .verify(frame, &seal)
                .unwrap()
                .decode(&mut Decoder::new())
                .unwrap();
            assert_eq!(verified.bytes(), content);
        }
    }
}

#[test]
fn a_short_tail_tells_how_much_is_needed() {
    let seal = Seal::plain();
    let (_, bytes, ..) = sample::pack(&seal);
    let size = bytes.len() as u64;
    let parse = |tail: usize| PackDirectory::parse(&bytes[bytes.len() - tail..], size, 0, &seal);
    let Err(FormatError::Truncated { needed, .. }) = parse(64) else {
        panic!("64 bytes did")
    };
    let needed = usize::try_from(needed).unwrap();
    assert!(parse(needed - 1).is_err());
    assert_eq!(parse(needed).unwrap(), parse(bytes.len()).unwrap());
}

#[test]
fn a_pack_never_outgrows_its_limit_and_its_memory_is_used_again() {
    let seal = Seal::plain();
    let (mut encoder, raw) = (Encoder::new(), vec![7; 1 << 20]);
    let owner = FrameOwner::Files { offset: 0 };
    let mut builder = PackBuilder::with_buffer(0, &sample::origin(), &seal, usize::MAX, Vec::new());
    let mut added = 0;
    while builder
        .encode(&mut encoder, &raw, Effort::None, &owner)
        .is_ok()
    {
        added += 1;
        assert!(builder.is_full() || added < 30);
    }
    let expected = builder.bytes();
    let (_, bytes) = builder.finish();
    assert_eq!(bytes.len(), expected);
    assert!(bytes.len() <= PACK_BYTES_MAX);
    assert!(bytes.len() > PACK_BYTES_TARGET);

    let address = bytes.as_ptr();
    let shared = bytes.clone();
    assert!(recycle(shared).is_none());
    let buffer = recycle(bytes).unwrap();
    let mut builder = PackBuilder::with_buffer(1, &sample::origin(), &seal, 1 << 20, buffer);
    builder
        .encode(&mut encoder, &raw, Effort::None, &owner)
        .unwrap();
    assert_eq!(builder.finish().1.as_ptr(), address);
}

#[test]
fn content_that_no_reader_would_take_is_not_written() {
    let mut builder = PackBuilder::new(0, &sample::origin(), &Seal::plain());
    let mut encoder = Encoder::new();
    let files = FrameOwner::Files { offset: 0 };
    let memory = |start, pages| FrameOwner::Memory {
        pid: 1,
        runs: vec![sample::range(start, pages)],
    };
    let image = |name: &str| FrameOwner::Image {
        name: name.into(),
        offset: 0,
    };
    let page = vec![1; 4096];
    for (raw, owner) in [
        (vec![], files.clone()),
        (vec![1; (1 << 20) + 1], files),
        (page.clone(), memory(0, 2)),
        (page.clone(), memory(1 << 45, 1)),
        (vec![1; 65 * 4096], memory(0, 65)),
        (page.clone(), FrameOwner::Files { offset: u64::MAX }),
        (page, image("../core.img")),
    ] {
        assert!(
            builder
                .encode(&mut encoder, &raw, Effort::Fast, &owner)
                .is_err(),
            "{owner:?}"
        );
    }
    assert!(builder.is_empty());
}

#[test]
fn a_pack_of_another_size_than_its_directory_says_is_refused() {
    let seal = Seal::plain();
    let (_, bytes, ..) = sample::pack(&seal);
    let longer = Bytes::from([&bytes[..16], b"hole", &bytes[16..]].concat());
    assert!(PackDirectory::verify(&longer, 0, &seal).is_err());
    assert!(PackDirectory::parse(&bytes, bytes.len() as u64 + 1, 0, &seal).is_err());
}

#[test]
fn what_is_filled_in_place_or_sealed_elsewhere_is_like_what_is_encoded() {
    let seal = Seal::plain();
    let raw = sample::noise();
    let owner = FrameOwner::Files { offset: 0 };
    let mut copied = PackBuilder::new(0, &sample::origin(), &seal);
    copied
        .encode(&mut Encoder::new(), &raw, Effort::None, &owner)
        .unwrap();
    let mut filled = PackBuilder::new(0, &sample::origin(), &seal);
    let failed: Result<_, &str> = filled.fill(77, &owner, |_| Err("gone")).unwrap();
    assert_eq!(failed, Err("gone"));
    let done: Result<_, &str> = filled
        .fill(raw.len(), &owner, |place| {
            place.copy_from_slice(&raw);
            Ok(())
        })
        .unwrap();
    assert_eq!(done.unwrap().raw_bytes, 4096);
    let mut sealed = PackBuilder::new(0, &sample::origin(), &seal);
    sealed
        .append_sealed(&raw, Codec::Raw, raw.len(), seal.frame_digest(&raw), &owner)
        .unwrap();
    let mut apart = PackBuilder::of_payloads(0, &sample::origin(), &seal, 1 << 20);
    let payload = Bytes::from(raw.clone());
    let digest = seal.frame_digest(&raw);
    let frame = apart
        .append_payload(payload.clone(), Codec::Raw, raw.len(), digest, &owner)
        .unwrap();
    assert_eq!(frame.offset, 16);
    assert_eq!(apart.bytes(), copied.bytes());
    let copied = copied.finish();
    let (id, pieces) = apart.finish_pieces();
    assert_eq!((id, Bytes::from(pieces.concat())), copied);
    assert_eq!(pieces[1].as_ptr(), payload.as_ptr());
    assert_eq!(filled.finish(), copied);
    assert_eq!(sealed.finish(), copied);
}
