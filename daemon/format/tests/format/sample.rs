//! Small stored objects with every field in use.
#![expect(clippy::unwrap_used, reason = "these values are constants")]

use bytes::Bytes;
use lifeboat_format::{
    Effort, Encoder, FrameOwner, FrameRef, Head, HeadState, LatestManifest, Manifest, PackBuilder,
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

/// Pages with little to compress (`n` even) or much (`n` odd); always the same.
pub(crate) fn pages(n: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count * PAGE_BYTES];
    if n.is_multiple_of(2) {
        blake3::Hasher::new()
            .update(&n.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
    } else {
        bytes
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at / 64).to_le_bytes()[0]);
    }
    bytes
}

/// One pack with a frame of each owner and codec, and what its frames contain.
pub(crate) fn pack(seal: &Seal) -> (PackRef, Bytes, Vec<FrameRef>, Vec<Vec<u8>>) {
    let mut encoder = Encoder::new();
    let mut builder = PackBuilder::new(0, &origin(), seal);
    let mut frames = Vec::new();
    let contents = [
        (
            pages(0, 1),
            Effort::None,
            FrameOwner::Memory {
                pid: 1001,
                runs: vec![range(0x7000, 1)],
            },
        ),
        (
            pages(1, 3),
            Effort::Fast,
            FrameOwner::Memory {
                pid: 1001,
                runs: vec![range(0x400, 1), range(0x402, 2)],
            },
        ),
        (
            pages(3, 2),
            Effort::Balanced,
            FrameOwner::SharedMemory {
                id: 9,
                runs: vec![range(5, 2)],
            },
        ),
        (
            b"content of a core image".repeat(9),
            Effort::Small,
            FrameOwner::Image {
                name: "core-1001.img".into(),
                offset: 0,
            },
        ),
        (
            b"stream of files".to_vec(),
            Effort::Fast,
            FrameOwner::Files { offset: 0 },
        ),
    ];
    for (raw, effort, owner) in &contents {
        frames.push(builder.encode(&mut encoder, raw, *effort, owner).unwrap());
    }
    let (id, bytes) = builder.finish();
    let pack = PackRef {
        id,
        size_bytes: bytes.len() as u64,
    };
    (pack, bytes, frames, contents.map(|(raw, ..)| raw).to_vec())
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
