//! Image files from anybody: whatever they contain, they are read or refused.

use bytes::Bytes;
use proptest::prelude::*;

use super::{AllowedCredentials, ImageSet, pagemap};

/// Names of files that are decoded, with their magic numbers; the inventory has only one.
const FILES: [(&str, &[u32]); 10] = [
    ("inventory.img", &[0x5831_3116]),
    ("pstree.img", &[0x5456_4319, 0x5027_3030]),
    ("core-1.img", &[0x5456_4319, 0x5505_3847]),
    ("ids-1.img", &[0x5456_4319, 0x5443_2030]),
    ("mm-1.img", &[0x5456_4319, 0x5749_2820]),
    ("pagemap-1.img", &[0x5456_4319, 0x5608_4025]),
    ("files.img", &[0x5456_4319, 0x5630_3138]),
    ("pipes-data.img", &[0x5456_4319, 0x5645_3709]),
    ("timens-0.img", &[0x5456_4319, 0x4311_4433]),
    ("cpuinfo.img", &[0x5456_4319, 0x6140_4013]),
];

/// Entries whose lengths are right, of bytes that look like a message now and then.
fn entries() -> impl Strategy<Value = Vec<u8>> {
    let field = (
        1_u8..21,
        prop_oneof![Just(0_u8), Just(2)],
        prop::collection::vec(any::<u8>(), 0..12),
    )
        .prop_map(|(tag, wire, value)| {
            let mut field = Vec::new();
            prost::encoding::encode_varint(u64::from(tag) << 3 | u64::from(wire), &mut field);
            if wire == 2 {
                field.push(u8::try_from(value.len()).expect("short"));
                field.extend(value);
            } else {
                field.push(value.first().copied().unwrap_or(1) & 0x7f);
            }
            field
        });
    let message = prop::collection::vec(field, 0..8).prop_map(|fields| fields.concat());
    let framed = message.prop_map(|message| {
        let length = u32::try_from(message.len()).expect("short");
        [&length.to_le_bytes()[..], &message].concat()
    });
    prop::collection::vec(framed, 0..4).prop_map(|entries| entries.concat())
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![entries(), prop::collection::vec(any::<u8>(), 0..64)]
}

fn images() -> impl Strategy<Value = ImageSet> {
    let files = FILES.map(|(name, magics)| {
        body().prop_map(move |body| {
            let head = magics.iter().flat_map(|magic| magic.to_le_bytes());
            (name, head.chain(body).collect::<Bytes>())
        })
    });
    files.prop_map(|files| {
        let mut images = ImageSet::default();
        files
            .into_iter()
            .for_each(|(name, bytes)| images.insert(name, bytes));
        images
    })
}

fn allowed() -> AllowedCredentials {
    AllowedCredentials {
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
        capabilities: 0,
        bounding: 0,
        no_new_privileges: true,
        seccomp: true,
        security_label: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_question_gets_an_answer(images in images()) {
        let _any = images.tasks();
        let _any = images.open_files();
        let _any = images.clocks();
        let _any = images.cpu();
        if let Ok(pipes) = images.pipe_data() {
            let file = images.get("pipes-data.img").expect("put in");
            prop_assert!(pipes.values().map(Bytes::len).sum::<usize>() <= file.len());
        }
        if let Ok(mappings) = images.mappings(1) {
            prop_assert!(mappings.windows(2).all(|pair| pair[0].run.end() <= pair[1].run.start));
        }
        let runs = images.captured_by_criu(1);
        if let Ok(runs) = &runs {
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start));
        }
        let file = images.get("pagemap-1.img").expect("put in");
        match pagemap::present("pagemap-1.img", file) {
            Ok(changed) => {
                let mut again = ImageSet::default();
                again.insert("pagemap-1.img", changed);
                prop_assert_eq!(again.captured_by_criu(1), runs);
            }
            Err(_) => prop_assert!(runs.is_err()),
        }
    }

    #[test]
    fn what_is_not_understood_is_not_allowed(images in images()) {
        // No body that is made up here has a thread with the credentials that are asked for.
        prop_assert!(images.check_credentials(&allowed()).is_err());
        let _any = images.check_reach(&allowed());
    }
}
