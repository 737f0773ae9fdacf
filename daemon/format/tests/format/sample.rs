//! Small stored objects with every field in use.
#![expect(clippy::unwrap_used, reason = "these values are constants")]

use bytes::Bytes;
use lifeboat_format::{
    Codec, FrameOwner, FrameRef, Head, HeadState, LatestManifest, Manifest, PackBuilder,
    PackOrigin, PageRunRef, PageRuns, Seal, StoreKey,
    manifest::{
        AddressSpace, FileArchive, ImageFile, PackRef, Platform, SharedMemory, Stream, StreamPipe,
        TcpPolicy, WorkloadSpec,
    },
};
use lifeboat_proto::{
    id::{CheckpointId, Epoch, WorkloadName},
    units::{PAGE_BYTES, PageIndex, PageRun},
};

pub(crate) const CHECKPOINT: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
pub(crate) const PARENT: &str = "01890a5d-ac96-774b-bcce-b302099a8056";

pub(crate) fn workload() -> WorkloadName {
    "redis-0".parse().unwrap()
}

pub(crate) fn checkpoint() -> CheckpointId {
    CHECKPOINT.parse().unwrap()
}

pub(crate) fn key() -> StoreKey {
    StoreKey::from_secret(b"golden store key of 32 bytes....").unwrap()
}

pub(crate) fn origin() -> PackOrigin {
    PackOrigin {
        workload: workload(),
        epoch: Epoch(7),
        sequence: 3,
    }
}

pub(crate) fn range(start: u64, pages: u64) -> PageRun {
    PageRun::new(PageIndex(start), pages)
}

pub(crate) fn run(start: u64, pages: u64, frame: u32, frame_page: u32) -> PageRunRef {
    PageRunRef {
        run: range(start, pages),
        frame,
        frame_page,
    }
}

pub(crate) fn runs(all: &[PageRunRef]) -> PageRuns {
    let mut runs = PageRuns::new();
    for run in all {
        runs.push(*run).unwrap();
    }
    runs
}

/// A page that does not compress; always the same.
pub(crate) fn noise() -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Three pages of 0x11 as an LZ4 block.
fn lz4_payload() -> Vec<u8> {
    [
        &[0x1f, 0x11, 1, 0][..],
        &[0xff; 48],
        &[0x16, 0x60, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11],
    ]
    .concat()
}

/// Two pages of 0x22 as a Zstandard frame.
const ZSTD_PAYLOAD: &[u8] =
    b"\x28\xb5\x2f\xfd\x60\x00\x1f\x4d\x00\x00\x10\x22\x22\x01\x00\xfb\xdf\x03\x2c";

/// One pack with a frame of each owner and codec, and what its frames contain. The payloads are
/// constants: another version of a compressor would make others.
pub(crate) fn pack(seal: &Seal) -> (PackRef, Bytes, Vec<FrameRef>, Vec<Vec<u8>>) {
    let mut builder = PackBuilder::new(0, &origin(), seal);
    let mut frames = Vec::new();
    let mut contents = Vec::new();
    let mut add = |payload: &[u8], codec, raw: Vec<u8>, owner| {
        frames.push(builder.append(payload, codec, raw.len(), &owner).unwrap());
        contents.push(raw);
    };
    let memory = |runs| FrameOwner::Memory { pid: 1001, runs };
    let shared = |runs| FrameOwner::SharedMemory { id: 9, runs };
    let image = FrameOwner::Image {
        name: "core-1001.img".into(),
        offset: 0,
    };
    add(
        &noise(),
        Codec::Raw,
        noise(),
        memory(vec![range(0x7000, 1)]),
    );
    let runs = vec![range(0x400, 1), range(0x402, 2)];
    add(
        &lz4_payload(),
        Codec::Lz4,
        vec![0x11; 3 * PAGE_BYTES],
        memory(runs),
    );
    add(
        ZSTD_PAYLOAD,
        Codec::Zstd,
        vec![0x22; 2 * PAGE_BYTES],
        shared(vec![range(5, 2)]),
    );
    add(b"a core image", Codec::Raw, b"a core image".to_vec(), image);
    let files = FrameOwner::Files { offset: 0 };
    add(
        b"stream of files",
        Codec::Raw,
        b"stream of files".to_vec(),
        files,
    );
    let (id, bytes) = builder.finish();
    let pack = PackRef {
        id,
        size_bytes: bytes.len() as u64,
    };
    (pack, bytes, frames, contents)
}

/// A manifest over [`pack`].
pub(crate) fn manifest(seal: &Seal) -> Manifest {
    let (pack, _, frames, contents) = pack(seal);
    Manifest {
        checkpoint: checkpoint(),
        workload: workload(),
        epoch: Epoch(7),
        frozen_at_unix_ns: 1_700_000_000_123_456_789,
        platform: Platform {
            architecture: "x86_64".into(),
            criu_version: "4.2.1".into(),
            kernel_release: "6.18.0".into(),
            page_size: 4096,
            cpu_features: vec!["avx2".into(), "sse4_2".into()],
            node: "node-a".into(),
        },
        spec: WorkloadSpec {
            argv: vec!["redis-server".into(), "--port".into(), "7000".into()],
            working_directory: "/srv/redis".into(),
            uid: 1000,
            gid: 1000,
            preserve: vec!["/srv/redis".into()],
            tcp: TcpPolicy::Keep,
            terminal: true,
            streams: vec![
                StreamPipe {
                    stream: Stream::Stdin,
                    inode: 11,
                },
                StreamPipe {
                    stream: Stream::TerminalControl,
                    inode: 12,
                },
            ],
        },
        packs: vec![pack],
        frames,
        address_spaces: vec![AddressSpace {
            pid: 1001,
            runs: runs(&[
                run(0x400, 1, 1, 0),
                run(0x402, 2, 1, 1),
                run(0x7000, 1, 0, 0),
            ]),
            hot: vec![range(0x7000, 1), range(0x402, 1)],
            captured: vec![range(0x400, 2), range(0x402, 0x10), range(0x7000, 0x10)],
        }],
        image_files: vec![ImageFile {
            name: "core-1001.img".into(),
            size_bytes: contents[3].len() as u64,
            frames: vec![3],
        }],
        files: Some(FileArchive {
            size_bytes: contents[4].len() as u64,
            frames: vec![4],
        }),
        root_pid: 1001,
        memory_bytes: 4 * 4096,
        parent: Some(PARENT.parse().unwrap()),
        shared_memory: vec![SharedMemory {
            id: 9,
            runs: runs(&[run(5, 2, 2, 0)]),
            pages: 16,
        }],
    }
}

pub(crate) fn head() -> Head {
    Head {
        workload: workload(),
        epoch: Epoch(8),
        owner: "node-b/1234".into(),
        node: "node-b".into(),
        state: HeadState::Evacuated,
        latest: Some(LatestManifest {
            checkpoint: checkpoint(),
            epoch: Epoch(7),
            digest: [0x5a; 32],
        }),
        nonce: [0xc3; 16],
        lease_ms: 30_000,
        renewals: 12,
        uid: 1000,
    }
}

/// A manifest with thousands of frames and runs.
pub(crate) fn large_manifest(seal: &Seal) -> Manifest {
    let mut manifest = manifest(seal);
    let frame = manifest.frames[1];
    manifest.frames.extend((0..4000u32).map(|n| FrameRef {
        digest: *blake3::hash(&n.to_le_bytes()).as_bytes(),
        ..frame
    }));
    let space = &mut manifest.address_spaces[0];
    space.captured = vec![range(0, 1 << 20)];
    space.runs = runs(
        &(0..4000u32)
            .map(|n| run(u64::from(n) * 7, 3, n + 5, 0))
            .collect::<Vec<_>>(),
    );
    manifest
}
