//! The worked example of `proto/FORMAT.md` is what the code writes.

use bytes::Bytes;
use lifeboat_format::{
    Codec, FrameOwner, FrameRef, Head, HeadState, LatestManifest, Manifest, PackBuilder,
    PackOrigin, Seal,
    keys::{self, ObjectKey},
    manifest::{FileArchive, PackRef, Platform, TcpPolicy, WorkloadSpec},
};
use lifeboat_proto::id::Epoch;

use crate::sample;

const DOCUMENT: &str = include_str!("../../../../proto/FORMAT.md");

/// The bytes of the block that begins with "```text NAME". A line is an offset, two blanks, bytes,
/// and perhaps a meaning after ';'.
fn block(name: &str) -> Vec<u8> {
    let begin = format!("```text {name}\n");
    let (_, rest) = DOCUMENT
        .split_once(&begin)
        .expect("the block is in the document");
    let (lines, _) = rest.split_once("```").expect("the block ends");
    let mut bytes = Vec::new();
    for line in lines.lines() {
        let (offset, rest) = line.split_once("  ").expect("an offset comes first");
        assert_eq!(
            usize::from_str_radix(offset, 16),
            Ok(bytes.len()),
            "{name}: {line}"
        );
        let digits = rest.split(';').next().unwrap_or(rest).replace(' ', "");
        bytes.extend(hex::decode(digits).expect("hexadecimal digits"));
    }
    bytes
}

/// Bytes as lines of the document, for whoever has to write the example anew.
fn lines(bytes: &[u8]) -> String {
    let line = |(n, part): (usize, &[u8])| {
        let digits: Vec<_> = part.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}\n", n * 16, digits.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

fn assert_documented(name: &str, bytes: &[u8]) {
    assert!(block(name) == bytes, "{name} is now\n{}", lines(bytes));
}

fn pack() -> (PackRef, Bytes, FrameRef) {
    let workload = "a".parse().expect("a name");
    let origin = PackOrigin {
        workload,
        epoch: Epoch(1),
        sequence: 1,
    };
    let mut pack = PackBuilder::new(0, &origin, &Seal::plain());
    let owner = FrameOwner::Files { offset: 0 };
    let frame = pack
        .append(b"lifeboat", Codec::Raw, 8, &owner)
        .expect("it can be stored");
    let (id, bytes) = pack.finish();
    (
        PackRef {
            id,
            size_bytes: bytes.len() as u64,
        },
        bytes,
        frame,
    )
}

fn manifest() -> Manifest {
    let (pack, _, frame) = pack();
    Manifest {
        checkpoint: sample::checkpoint(),
        workload: "a".parse().expect("a name"),
        epoch: Epoch(1),
        frozen_at_unix_ns: 0,
        platform: Platform {
            architecture: "x86_64".into(),
            criu_version: "4.2.1".into(),
            kernel_release: String::new(),
            page_size: 4096,
            cpu_features: vec![],
            node: String::new(),
        },
        spec: WorkloadSpec {
            argv: vec!["sh".into()],
            working_directory: "/".into(),
            uid: 0,
            gid: 0,
            preserve: vec![],
            tcp: TcpPolicy::Close,
            terminal: false,
            streams: vec![],
        },
        packs: vec![pack],
        frames: vec![frame],
        address_spaces: vec![],
        image_files: vec![],
        files: Some(FileArchive {
            size_bytes: 8,
            frames: vec![0],
        }),
        root_pid: 1,
        memory_bytes: 0,
        parent: None,
        shared_memory: vec![],
    }
}

#[test]
fn the_example_pack_is_what_is_written() {
    assert_documented("pack", &pack().1);
}

#[test]
fn the_example_manifest_is_what_is_written() {
    assert_documented("manifest", &manifest().encode(&Seal::plain()).unwrap().0);
}

#[test]
fn the_example_head_is_what_is_written() {
    let manifest = manifest();
    let head = Head {
        workload: manifest.workload.clone(),
        epoch: Epoch(1),
        owner: "n".into(),
        node: String::new(),
        state: HeadState::Evacuated,
        latest: Some(LatestManifest {
            checkpoint: manifest.checkpoint,
            epoch: Epoch(1),
            digest: manifest.encode(&Seal::plain()).unwrap().1,
        }),
        nonce: [0x77; 16],
        lease_ms: 30_000,
        renewals: 0,
        uid: 0,
    };
    assert_documented("head", &head.encode(&Seal::plain()).unwrap());
}

#[test]
fn the_example_keys_are_those_of_the_example() {
    let manifest = manifest();
    let (pack, ..) = pack();
    for key in [
        keys::pack(pack.id),
        keys::checkpoint(&manifest.workload, Epoch(1), manifest.checkpoint),
        keys::head(&manifest.workload),
    ] {
        assert!(DOCUMENT.contains(&format!("`{key}`")), "{key}");
        assert!(key.parse::<ObjectKey>().is_ok());
    }
}
