//! Whatever can be stored comes back; whatever is read never makes a reader panic.

use bytes::Bytes;
use lifeboat_format::{
    Codec, Decoder, Effort, Encoder, FRAME_BYTES_MAX, FrameOwner, FrameRef, Manifest, PackBuilder,
    PackDirectory, PageRuns, Seal, StoredFrame, keys::ObjectKey,
};
use lifeboat_proto::id::{CheckpointId, Epoch, PackId, WorkloadName};
use proptest::prelude::*;

use crate::sample::{self, range, run};

fn effort() -> impl Strategy<Value = Effort> {
    prop_oneof![
        Just(Effort::None),
        Just(Effort::Fast),
        Just(Effort::Balanced),
        Just(Effort::Small)
    ]
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Raw), Just(Codec::Lz4), Just(Codec::Zstd)]
}

/// Content between constant and random.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u8>(), 1..5000usize).prop_map(|(byte, times)| vec![byte; times]),
        prop::collection::vec(any::<u8>(), 1..3000),
        ("[a-z ]{1,40}", 1..200usize).prop_map(|(text, times)| text.repeat(times).into_bytes()),
    ];
    prop::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

/// Runs with gaps, and frames that hold them.
fn runs() -> impl Strategy<Value = PageRuns> {
    let gaps = (0..1000u64, 1..=3u64, 0..3u32);
    prop::collection::vec(gaps, 0..200).prop_map(|all| {
        let mut runs = PageRuns::new();
        let mut end = 0;
        for (gap, pages, frame_page) in all {
            // Frame 1 of the sample has three pages.
            let next = run(
                end + gap,
                pages.min(3 - u64::from(frame_page)),
                1,
                frame_page,
            );
            runs.push(next).expect("ascending");
            end = next.run.end().0;
        }
        runs
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn frames_come_back(raw in content(), effort in effort()) {
        let seal = Seal::plain();
        let mut builder = PackBuilder::new(5, &sample::origin(), &seal);
        let owner = FrameOwner::Files { offset: 1 };
        let frame = builder.encode(&mut Encoder::new(), &raw, effort, &owner).expect("storable");
        let (id, pack) = builder.finish();
        let directory = PackDirectory::verify(&pack, 5, &seal).expect("just written");
        prop_assert_eq!(directory.id, id);
        prop_assert_eq!(directory.entries[0].frame, frame);
        let stored = StoredFrame::from_range(&pack, 0, &frame).expect("inside");
        let sealed = stored.verify(&frame, &seal).expect("just sealed");
        let content = sealed.decode(&mut Decoder::new()).expect("decodes");
        prop_assert_eq!(content.bytes(), raw);
    }

    #[test]
    fn a_payload_of_any_bytes_has_the_expected_size_or_is_an_error(
        payload in prop::collection::vec(any::<u8>(), 0..600),
        codec in codec(),
        raw_bytes in prop_oneof![0..2000u32, Just(1 << 20), any::<u32>()],
    ) {
        let seal = Seal::plain();
        let frame = FrameRef {
            pack: 0,
            offset: 0,
            stored_bytes: u32::try_from(payload.len()).expect("small"),
            raw_bytes,
            codec,
            digest: seal.frame_digest(&payload),
        };
        let sealed = StoredFrame::new(Bytes::from(payload)).verify(&frame, &seal).expect("sealed");
        if let Ok(content) = sealed.decode(&mut Decoder::new()) {
            prop_assert_eq!(content.bytes().len(), raw_bytes as usize);
            prop_assert!(raw_bytes as usize <= FRAME_BYTES_MAX);
        }
    }

    #[test]
    fn manifests_come_back(
        runs in runs(),
        epoch in any::<u64>(),
        argv in prop::collection::vec("[^\0]{0,40}", 0..20),
        memory_bytes in any::<u64>(),
        pid in 1..=4_194_304u32,
    ) {
        let seal = Seal::plain();
        let mut manifest = sample::manifest(&seal);
        manifest.epoch = Epoch(epoch);
        manifest.spec.argv = argv;
        manifest.memory_bytes = memory_bytes;
        manifest.root_pid = pid;
        manifest.address_spaces[0].captured = vec![range(0, 1 << 45)];
        manifest.address_spaces[0].runs = runs;
        let (bytes, digest) = manifest.encode(&seal).expect("storable");
        prop_assert_eq!(Manifest::decode(&bytes, &seal).expect("just written"), (manifest, digest));
    }

    #[test]
    fn keys_come_back(
        pack in any::<[u8; 16]>(),
        name in "[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?",
        epoch in any::<u64>(),
    ) {
        let workload: WorkloadName = name.parse().expect("a name");
        for key in [
            ObjectKey::Pack(PackId(pack)),
            ObjectKey::Head(workload.clone()),
            ObjectKey::Checkpoint { workload, epoch: Epoch(epoch), id: CheckpointId::new() },
        ] {
            prop_assert_eq!(key.to_string().parse::<ObjectKey>().expect("a key"), key);
        }
    }

    #[test]
    fn any_text_that_parses_as_a_key_is_that_key(key in "(packs|workloads)?/?[a-z0-9./-]{0,90}") {
        if let Ok(parsed) = key.parse::<ObjectKey>() {
            prop_assert_eq!(parsed.to_string(), key);
        }
    }
}
