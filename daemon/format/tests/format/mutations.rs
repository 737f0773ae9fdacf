//! Damaged and forged objects: an error, never a panic, never other content.
//!
//! Damage (bytes change, digests stay) must always be found. Forgery (somebody without the store
//! key, or a store without one, makes the digest fit) may be accepted as another valid object, but
//! then everything in it holds that the rest of the product relies on.

use bytes::Bytes;
use lifeboat_format::{Decoder, FrameRef, Head, Manifest, PackDirectory, Seal, StoredFrame};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::sample;

/// Mutations of all kinds together, in one run of the tests.
const MUTATIONS: u32 = 100_000;

/// The digest of an envelope or a pack without a store key, as FORMAT.md describes it.
fn plain_digest(kind: &str, parts: &[&[u8]]) -> [u8; 32] {
    let key = blake3::derive_key(&format!("lifeboat.image.v1 {kind}"), b"");
    let mut hasher = blake3::Hasher::new_keyed(&key);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Makes the digest at the end of an envelope fit.
fn reseal_envelope(kind: &str, bytes: &mut Vec<u8>) {
    let body = bytes.len().saturating_sub(32);
    let digest = plain_digest(kind, &[&bytes[..body]]);
    bytes.truncate(body);
    bytes.extend_from_slice(&digest);
}

/// Makes the digest in the footer of a pack fit its directory.
fn reseal_pack(bytes: &mut [u8]) {
    let Some(footer) = bytes.len().checked_sub(64) else {
        return;
    };
    let mut size = [0; 4];
    size.copy_from_slice(&bytes[footer..footer + 4]);
    let begin = footer.saturating_sub(u32::from_le_bytes(size) as usize);
    let digest = plain_digest(
        "pack",
        &[&bytes[footer..footer + 24], &bytes[begin..footer]],
    );
    bytes[footer + 24..footer + 56].copy_from_slice(&digest);
}

/// Changes `bytes` in one of the ways in which bytes go wrong.
fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    let len = bytes.len();
    if len == 0 {
        return;
    }
    let at = random.random_range(0..len);
    let to = random.random_range(at..=len.min(at + 40));
    match random.random_range(0..8) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..to)),
        5 => bytes.insert(at, random.random()),
        6 => {
            let piece = bytes[at..to].to_vec();
            let place = random.random_range(0..=len);
            drop(bytes.splice(place..place, piece));
        }
        _ => bytes[at..to].fill(random.random()),
    }
}

/// Mutates `original` `times` times and gives each result that is something else to `check`.
fn each_mutation(seed: u64, original: &[u8], times: u32, mut check: impl FnMut(Vec<u8>)) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..times {
        let mut bytes = original.to_vec();
        for _ in 0..random.random_range(1..4) {
            mutate(&mut random, &mut bytes);
        }
        if bytes != original {
            check(bytes);
        }
    }
}

/// The payload of a frame.
fn payload(pack: &Bytes, frame: &FrameRef) -> Bytes {
    let begin = usize::try_from(frame.offset).expect("packs fit into memory");
    pack.slice(begin..begin + frame.stored_bytes as usize)
}

#[test]
fn every_truncation_and_every_changed_bit_is_found() {
    for seal in [Seal::plain(), Seal::keyed(&sample::key())] {
        let head = sample::head().encode(&seal).unwrap();
        let manifest = sample::manifest(&seal).encode(&seal).unwrap().0;
        let pack = sample::pack(&seal).1;
        let refused = |object: usize, bytes: &[u8]| match object {
            0 => Head::decode(bytes, &sample::workload(), &seal).is_err(),
            1 => Manifest::decode(bytes, &seal).is_err(),
            _ => PackDirectory::verify(&Bytes::copy_from_slice(bytes), 0, &seal).is_err(),
        };
        for (object, original) in [head, manifest, pack].iter().enumerate() {
            assert!(!refused(object, original));
            for cut in 0..original.len() {
                assert!(
                    refused(object, &original[..cut]),
                    "object {object} cut at {cut}"
                );
                assert!(
                    refused(object, &original[cut + 1..]),
                    "object {object} from {cut}"
                );
            }
            let mut bytes = original.to_vec();
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(refused(object, &bytes), "object {object} bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn damage_is_always_found() {
    let seal = Seal::plain();
    let (_, pack, frames, _) = sample::pack(&seal);
    let head = sample::head().encode(&seal).unwrap();
    each_mutation(1, &head, MUTATIONS / 10, |bytes| {
        assert!(Head::decode(&bytes, &sample::workload(), &seal).is_err());
    });
    let manifest = sample::manifest(&seal).encode(&seal).unwrap().0;
    each_mutation(2, &manifest, MUTATIONS / 10, |bytes| {
        assert!(Manifest::decode(&bytes, &seal).is_err());
    });
    each_mutation(3, &pack, MUTATIONS / 10, |bytes| {
        assert!(PackDirectory::verify(&bytes.into(), 0, &seal).is_err());
    });
    for (seed, frame) in (4..).zip(&frames) {
        let payload = payload(&pack, frame);
        each_mutation(seed, &payload, MUTATIONS / 50, |bytes| {
            assert!(StoredFrame::new(bytes.into()).verify(frame, &seal).is_err());
        });
    }
}

#[test]
fn forged_heads_and_manifests_are_refused_or_sound() {
    let seal = Seal::plain();
    let head = sample::head().encode(&seal).unwrap();
    let mut accepted = 0;
    each_mutation(11, &head, MUTATIONS / 5, |mut bytes| {
        reseal_envelope("head", &mut bytes);
        if let Ok(head) = Head::decode(&bytes, &sample::workload(), &seal) {
            assert!(head.encode(&seal).is_ok(), "{head:?}");
            accepted += 1;
        }
    });
    let manifest = sample::manifest(&seal).encode(&seal).unwrap().0;
    each_mutation(12, &manifest, MUTATIONS / 5, |mut bytes| {
        reseal_envelope("manifest", &mut bytes);
        if let Ok((manifest, _)) = Manifest::decode(&bytes, &seal) {
            assert!(manifest.encode(&seal).is_ok(), "{manifest:?}");
            accepted += 1;
        }
    });
    // Else the forgeries did not get past the digest, and nothing was tested.
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn forged_compressed_manifests_are_refused_or_sound() {
    let seal = Seal::plain();
    let manifest = sample::large_manifest(&seal).encode(&seal).unwrap().0;
    each_mutation(13, &manifest, 500, |mut bytes| {
        reseal_envelope("manifest", &mut bytes);
        if let Ok((manifest, _)) = Manifest::decode(&bytes, &seal) {
            assert!(manifest.encode(&seal).is_ok());
        }
    });
}

#[test]
fn forged_packs_are_refused_or_sound() {
    let seal = Seal::plain();
    let (_, pack, frames, _) = sample::pack(&seal);
    let payloads = usize::try_from(frames.last().unwrap().range().end).unwrap();
    let mut accepted = 0;
    each_mutation(14, &pack[payloads..], MUTATIONS / 10, |mut tail| {
        reseal_pack(&mut tail);
        let size = (payloads + tail.len()) as u64;
        if let Ok(directory) = PackDirectory::parse(&tail, size, 0, &seal) {
            let mut end = 16;
            for entry in directory.entries {
                assert_eq!(entry.frame.offset, end);
                assert!(entry.frame.stored_bytes <= entry.frame.raw_bytes);
                end = entry.frame.range().end;
            }
            assert!(end <= size);
            accepted += 1;
        }
    });
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn forged_payloads_have_the_expected_size_or_are_refused() {
    let seal = Seal::plain();
    let (_, pack, frames, _) = sample::pack(&seal);
    let mut decoder = Decoder::new();
    for (seed, frame) in (20..).zip(&frames) {
        let payload = payload(&pack, frame);
        each_mutation(seed, &payload, MUTATIONS / 25, |bytes| {
            let mut frame = *frame;
            frame.digest = seal.frame_digest(&bytes);
            frame.stored_bytes = u32::try_from(bytes.len()).unwrap();
            let sealed = StoredFrame::new(bytes.into())
                .verify(&frame, &seal)
                .unwrap();
            if let Ok(content) = sealed.decode(&mut decoder) {
                assert_eq!(content.bytes().len(), frame.raw_bytes as usize);
            }
        });
    }
}

#[test]
fn a_forged_count_is_refused_before_memory_is_taken() {
    let seal = Seal::plain();
    let bytes = sample::manifest(&seal).encode(&seal).unwrap().0;
    // Two bytes each in the message; parsed they would take a hundred.
    for (field, name) in [
        (9, "address_spaces"),
        (10, "image_files"),
        (15, "shared_memory"),
    ] {
        let mut forged = bytes[..bytes.len() - 32].to_vec();
        forged.extend([field << 3 | 2, 0].repeat(300_000));
        let size = (forged.len() - 32) as u64;
        forged[24..32].copy_from_slice(&size.to_le_bytes());
        forged.extend_from_slice(&[0; 32]);
        reseal_envelope("manifest", &mut forged);
        let error = Manifest::decode(&forged, &seal).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("manifest: {name} is ")),
            "{error}"
        );
    }
}
