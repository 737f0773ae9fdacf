//! Objects written by the first version must be read, and written the same, for ever.
//!
//! The files in `tests/golden` were made by `write_golden_files` below; it refuses to overwrite.
//! Nothing in them was compressed by a library whose next version may choose other bytes, except
//! `manifest-compressed.bin` and the compressed frames of `pack.bin`: these are only read.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use lifeboat_format::{Decoder, Head, Manifest, PackDirectory, Seal, StoredFrame};

use crate::sample;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> Bytes {
    fs::read(path(name)).expect("golden files are part of the repository").into()
}

fn seals() -> [(&'static str, Seal); 2] {
    [("plain", Seal::plain()), ("keyed", Seal::keyed(&sample::key()))]
}

/// Every golden file, as it would be written today.
fn objects() -> Vec<(String, Bytes)> {
    let mut all = Vec::new();
    for (kind, seal) in seals() {
        let encoded = |what: Result<Bytes, _>| what.expect("a sample can be stored");
        let manifest = |m: Manifest| m.encode(&seal).map(|(bytes, _)| bytes);
        all.push((format!("head-{kind}.bin"), encoded(sample::head().encode(&seal))));
        all.push((format!("manifest-{kind}.bin"), encoded(manifest(sample::manifest(&seal)))));
        all.push((format!("pack-{kind}.bin"), sample::pack(&seal).1));
    }
    all
}

/// Makes golden files for objects that have none yet: run once, by name, after adding an object.
#[test]
fn golden_files_are_complete_and_written_the_same() {
    for (name, bytes) in objects() {
        if std::env::var_os("LIFEBOAT_WRITE_GOLDEN").is_some() && !path(&name).exists() {
            fs::write(path(&name), &bytes).expect("tests/golden can be written");
        }
        assert_eq!(golden(&name), bytes, "{name}");
    }
}
