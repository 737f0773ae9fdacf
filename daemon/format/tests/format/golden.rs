//! Objects written by the first version are read, and written the same, for ever.
//!
//! Payloads of frames are constants and small objects are not compressed, so that another version
//! of a compressor changes nothing. `manifest-large.bin` is compressed: it is only read.

use std::{env, fs, path::PathBuf};

use bytes::Bytes;
use lifeboat_format::{Decoder, Head, Manifest, PackDirectory, Seal, StoredFrame};

use crate::sample;

/// Set it to make golden files for objects that have none yet. Existing ones are never replaced.
const WRITE: &str = "LIFEBOAT_WRITE_GOLDEN";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn golden(name: &str) -> Bytes {
    fs::read(path(name))
        .expect("golden files are part of the repository")
        .into()
}

fn seals() -> [(&'static str, Seal); 2] {
    [
        ("plain", Seal::plain()),
        ("keyed", Seal::keyed(&sample::key())),
    ]
}

/// The bytes of the golden file that `today` would be now.
fn golden_of(name: &str, today: &Bytes) -> Bytes {
    if env::var_os(WRITE).is_some() && !path(name).exists() {
        fs::write(path(name), today).expect("tests/golden can be written");
    }
    golden(name)
}

#[test]
fn heads() {
    for (kind, seal) in seals() {
        let head = sample::head();
        let today = head.encode(&seal).unwrap();
        let bytes = golden_of(&format!("head-{kind}.bin"), &today);
        assert_eq!(Head::decode(&bytes, &head.workload, &seal).unwrap(), head);
        assert_eq!(bytes, today);
    }
}

#[test]
fn manifests() {
    for (kind, seal) in seals() {
        let manifest = sample::manifest(&seal);
        let (today, digest) = manifest.encode(&seal).unwrap();
        let bytes = golden_of(&format!("manifest-{kind}.bin"), &today);
        assert_eq!(Manifest::decode(&bytes, &seal).unwrap(), (manifest, digest));
        assert_eq!(bytes, today);
    }
}

#[test]
fn compressed_manifests() {
    let seal = Seal::plain();
    let manifest = sample::large_manifest(&seal);
    let bytes = golden_of("manifest-large.bin", &manifest.encode(&seal).unwrap().0);
    assert_eq!(Manifest::decode(&bytes, &seal).unwrap().0, manifest);
}

#[test]
fn packs() {
    for (kind, seal) in seals() {
        let (pack, today, frames, contents) = sample::pack(&seal);
        let bytes = golden_of(&format!("pack-{kind}.bin"), &today);
        let directory = PackDirectory::verify(&bytes, 0, &seal).unwrap();
        assert_eq!(directory.id, pack.id);
        for (frame, content) in frames.iter().zip(contents) {
            let stored = StoredFrame::from_range(&bytes, 0, frame).unwrap();
            let frame = stored
                .verify(frame, &seal)
                .unwrap()
                .decode(&mut Decoder::new())
                .unwrap();
            assert_eq!(frame.bytes(), content);
        }
        assert_eq!(bytes, today);
    }
}
