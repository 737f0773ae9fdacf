//! What a manifest promises to whoever reads it.

use crate::sample::{self, manifest, range, run, runs};
use lifeboat_format::{FormatError, Manifest, Seal, manifest::PackRef};
use lifeboat_proto::id::PackId;

#[test]
fn a_manifest_comes_back_as_it_was() {
    for seal in [Seal::plain(), Seal::keyed(&sample::key())] {
        let manifest = manifest(&seal);
        let (bytes, digest) = manifest.encode(&seal).unwrap();
        assert_eq!(Manifest::decode(&bytes, &seal).unwrap(), (manifest, digest));
    }
}

#[test]
fn a_large_manifest_is_compressed_and_comes_back() {
    let seal = Seal::plain();
    let manifest = sample::large_manifest(&seal);
    let (bytes, _) = manifest.encode(&seal).unwrap();
    assert!(bytes.len() < 150_000, "{}", bytes.len());
    assert_eq!(Manifest::decode(&bytes, &seal).unwrap().0, manifest);
}

#[test]
fn keys_must_fit() {
    let (plain, keyed) = (Seal::plain(), Seal::keyed(&sample::key()));
    let bytes = |seal: &Seal| manifest(seal).encode(seal).unwrap().0;
    let open = |bytes: &[u8], seal: &Seal| Manifest::decode(bytes, seal).unwrap_err();
    assert!(matches!(
        open(&bytes(&keyed), &plain),
        FormatError::KeyMissing { .. }
    ));
    assert!(matches!(
        open(&bytes(&plain), &keyed),
        FormatError::KeyMismatch { .. }
    ));
}

/// What is changed, the beginning of the error, and the change.
type Wrong = (&'static str, fn(&mut Manifest));

const WRONG: &[Wrong] = &[
    ("root_pid is 0", |m| m.root_pid = 0),
    ("packs[0] is 0", |m| m.packs[0].size_bytes = 0),
    ("packs[0] is 33554433", |m| {
        m.packs[0].size_bytes = (32 << 20) + 1
    }),
    ("packs[1] is there twice", |m| m.packs.push(m.packs[0])),
    ("frames[2].pack reaches", |m| m.frames[2].pack = 1),
    ("frames[2].offset reaches", |m| m.frames[2].offset = 15),
    ("frames[2].offset reaches", |m| {
        m.frames[2].offset = m.packs[0].size_bytes - 64
    }),
    ("frames[2].offset reaches", |m| {
        m.frames[2].offset = u64::MAX
    }),
    ("frames[0].stored_bytes is 4095", |m| {
        m.frames[0].stored_bytes = 4095
    }),
    ("frames[1].stored_bytes is 0", |m| {
        m.frames[1].stored_bytes = 0
    }),
    ("frames[1].raw_bytes is 0", |m| m.frames[1].raw_bytes = 0),
    ("frames[1].raw_bytes is 1048577", |m| {
        m.frames[1].raw_bytes = (1 << 20) + 1
    }),
    ("address_spaces[0].pid is 0", |m| {
        m.address_spaces[0].pid = 0
    }),
    ("address_spaces[1].pid is there twice", |m| {
        m.address_spaces.push(m.address_spaces[0].clone());
    }),
    ("address_spaces[0].runs[2] reaches", |m| {
        m.address_spaces[0].runs = runs(&[
            run(0x400, 1, 1, 0),
            run(0x402, 2, 1, 1),
            run(0x7000, 2, 0, 0),
        ]);
    }),
    ("address_spaces[0].runs[0] reaches", |m| {
        m.address_spaces[0].runs = runs(&[run(0x400, 1, 5, 0)]);
    }),
    ("address_spaces[0].runs[0] reaches", |m| {
        m.address_spaces[0].runs = runs(&[run(0x400, 1, 3, 0)]);
    }),
    ("address_spaces[0].runs[0] reaches", |m| {
        m.address_spaces[0].captured[0] = range(0x401, 1);
    }),
    ("address_spaces[0].runs[2] reaches", |m| {
        m.address_spaces[0].captured.truncate(2);
    }),
    ("address_spaces[0].captured[1] is not after", |m| {
        m.address_spaces[0].captured[1] = range(0x401, 0x10);
    }),
    ("address_spaces[0].captured[0] is 0", |m| {
        m.address_spaces[0].captured[0] = range(0x400, 0);
    }),
    ("address_spaces[0].hot[1] reaches", |m| {
        m.address_spaces[0].hot[1] = range(1 << 45, 1);
    }),
    ("address_spaces[0].hot[1] is", |m| {
        m.address_spaces[0].hot[1] = range(1, u64::MAX)
    }),
    ("shared_memory[0].runs reaches", |m| {
        m.shared_memory[0].pages = 6
    }),
    ("shared_memory[0].pages is 0", |m| {
        m.shared_memory[0].pages = 0
    }),
    ("image_files[0].name has the text", |m| {
        m.image_files[0].name = "../x".into()
    }),
    ("image_files[1].name is there twice", |m| {
        m.image_files.push(m.image_files[0].clone())
    }),
    ("image_files[0].frames is 12", |m| {
        m.image_files[0].size_bytes += 1
    }),
    ("image_files[0].frames reaches", |m| {
        m.image_files[0].frames[0] = 5
    }),
    ("files.frames is 15", |m| {
        m.files.iter_mut().for_each(|files| files.size_bytes = 1);
    }),
    ("platform.architecture is missing", |m| {
        m.platform.architecture.clear()
    }),
    ("platform.page_size is 65536", |m| {
        m.platform.page_size = 65536
    }),
    ("platform.node has the text", |m| {
        m.platform.node = "a\nb".into()
    }),
    ("spec.argv has the text", |m| m.spec.argv[0] = "a\0b".into()),
    ("spec.preserve has the text", |m| {
        m.spec.preserve[0] = "/a/../b".into()
    }),
    ("spec.working_directory has the text", |m| {
        m.spec.working_directory = "a".into()
    }),
    ("spec.streams is there twice", |m| {
        m.spec.streams[1] = m.spec.streams[0]
    }),
];

#[test]
fn what_does_not_fit_together_is_refused_with_its_place() {
    for (message, change) in WRONG {
        let mut manifest = manifest(&Seal::plain());
        change(&mut manifest);
        let error = manifest.encode(&Seal::plain()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("manifest: {message}")),
            "{message}: {error}"
        );
    }
}

#[test]
fn pruning_keeps_content_and_drops_the_rest() {
    let seal = Seal::plain();
    let wanted = manifest(&seal);
    let mut manifest = wanted.clone();
    // A superseded pack before, and superseded frames between: everything is numbered anew.
    let old = PackRef {
        id: PackId([1; 16]),
        size_bytes: 1 << 20,
    };
    manifest.packs.insert(0, old);
    for frame in &mut manifest.frames {
        frame.pack = 1;
    }
    manifest.frames = manifest
        .frames
        .iter()
        .flat_map(|frame| [*frame, *frame])
        .collect();
    manifest
        .frames
        .iter_mut()
        .step_by(2)
        .for_each(|frame| frame.pack = 0);
    manifest.address_spaces[0].runs = runs(&[
        run(0x400, 1, 3, 0),
        run(0x402, 2, 3, 1),
        run(0x7000, 1, 1, 0),
    ]);
    manifest.shared_memory[0].runs = runs(&[run(5, 2, 5, 0)]);
    manifest.image_files[0].frames = vec![7];
    manifest.files.as_mut().unwrap().frames = vec![9];
    manifest.prune();
    assert_eq!(manifest, wanted);
}
