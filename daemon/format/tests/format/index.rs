//! The index of pages against a model that has one entry for each page.

use std::collections::BTreeMap;

use lifeboat_format::{
    Codec, Displaced, FrameRef, LivePages, PageIndexMap, PageRunRef, runs::FramePage,
};
use lifeboat_proto::units::{PageIndex, PageRun};
use proptest::prelude::*;

use crate::sample::run;

/// A few hundred pages: changes overlap often.
const PAGES: u64 = 400;

#[derive(Clone, Debug)]
enum Change {
    Apply(PageRunRef),
    Remove(PageRun),
}

fn change() -> impl Strategy<Value = Change> {
    let apply = (0..PAGES, 1..=64u64, 0..6u32, 0..64u32).prop_map(|(start, pages, frame, page)| {
        let pages = pages.min(64 - u64::from(page));
        let run = PageRun::new(PageIndex(start), pages);
        Change::Apply(PageRunRef {
            run,
            frame,
            frame_page: page,
        })
    });
    let remove = (0..PAGES, prop_oneof![1..20u64, Just(PAGES), Just(u64::MAX)])
        .prop_map(|(start, pages)| Change::Remove(PageRun::new(PageIndex(start), pages)));
    prop_oneof![4 => apply, 1 => remove]
}

/// Many runs of one page each, so that leaves split and join.
fn scattered() -> impl Strategy<Value = Vec<Change>> {
    let apply = (0..20_000u64).prop_map(|start| {
        let run = PageRun::new(PageIndex(start), 1);
        Change::Apply(PageRunRef {
            run,
            frame: 1,
            frame_page: 0,
        })
    });
    let remove = (0..20_000u64, 1..2_000u64)
        .prop_map(|(start, pages)| Change::Remove(PageRun::new(PageIndex(start), pages)));
    prop::collection::vec(prop_oneof![400 => apply, 1 => remove], 1..3000)
}

fn compare(changes: &[Change], pages: u64) -> Result<(), TestCaseError> {
    let mut map = PageIndexMap::new();
    let mut model: BTreeMap<u64, FramePage> = BTreeMap::new();
    for change in changes {
        let (mut found, mut expected) = (BTreeMap::new(), BTreeMap::new());
        let mut count = |part: Displaced| {
            *found.entry(part.frame).or_insert(0) += part.pages;
        };
        let range = match change {
            Change::Apply(run) => {
                map.apply(*run, &mut count)
                    .expect("a run that can be stored");
                run.run
            }
            Change::Remove(range) => {
                map.remove(*range, &mut count);
                *range
            }
        };
        let gone: Vec<u64> = model
            .range(range.start.0..range.end().0)
            .map(|(page, _)| *page)
            .collect();
        for page in gone {
            let old = model.remove(&page).expect("it was just there");
            *expected.entry(old.frame).or_insert(0) += 1;
        }
        if let Change::Apply(run) = change {
            for page in range.start.0..range.end().0 {
                model.insert(page, run.page(PageIndex(page)).expect("a page of the run"));
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(map.pages(), model.len() as u64);
    }
    let mut last_end = 0;
    for run in map.iter() {
        prop_assert!(run.run.start.0 >= last_end && !run.run.is_empty());
        last_end = run.run.end().0;
    }
    prop_assert_eq!(map.iter().count(), map.len());
    let runs = map.to_runs();
    for page in (0..pages + 70).map(PageIndex) {
        prop_assert_eq!(map.lookup(page), model.get(&page.0).copied());
        prop_assert_eq!(runs.lookup(page), model.get(&page.0).copied());
    }
    for range in [(0, pages), (pages / 3, 77), (pages / 2, 1), (pages * 2, 5)] {
        let range = PageRun::new(PageIndex(range.0), range.1);
        let pages = |part: PageRunRef| (part.run.start.0..part.run.end().0).collect::<Vec<_>>();
        let expected: Vec<u64> = model
            .range(range.start.0..range.end().0)
            .map(|(page, _)| *page)
            .collect();
        let found: Vec<u64> = map.within(range).flat_map(pages).collect();
        prop_assert_eq!(&found, &expected);
        let found: Vec<u64> = runs.within(range).flat_map(pages).collect();
        prop_assert_eq!(&found, &expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_index_agrees_with_a_map_of_pages(changes in prop::collection::vec(change(), 1..120)) {
        compare(&changes, PAGES)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_index_agrees_when_it_has_many_leaves(changes in scattered()) {
        compare(&changes, 20_000)?;
    }
}

#[test]
fn the_latest_run_wins_and_the_rest_of_older_ones_stays() {
    let mut map = PageIndexMap::new();
    let mut parts = Vec::new();
    map.apply(run(100, 64, 0, 0), |part| parts.push(part))
        .unwrap();
    assert!(parts.is_empty());
    map.apply(run(110, 10, 1, 0), |part| parts.push(part))
        .unwrap();
    map.remove(PageRun::new(PageIndex(0), 105), |part| parts.push(part));
    let all: Vec<_> = map.iter().collect();
    assert_eq!(
        all,
        [run(105, 5, 0, 5), run(110, 10, 1, 0), run(120, 44, 0, 20)]
    );
    assert_eq!(
        parts,
        [
            Displaced {
                frame: 0,
                pages: 10
            },
            Displaced { frame: 0, pages: 5 }
        ]
    );
    assert_eq!((map.len(), map.pages()), (3, 59));
    assert!(map.apply(run(0, 65, 1, 0), |_| {}).is_err());
    assert_eq!(
        map.lookup(PageIndex(112)),
        Some(FramePage { frame: 1, page: 2 })
    );
}

#[test]
fn memory_stays_compact_whatever_the_order() {
    let orders: [fn(u64) -> u64; 4] = [
        |n| n,
        |n| 99_999 - n,
        // 7919 and 100 000 have no common factor: every place once, far from the last one.
        |n| n * 7919 % 100_000,
        |n| {
            if n < 50_000 {
                n * 2
            } else {
                (n - 50_000) * 2 + 1
            }
        },
    ];
    for order in orders {
        let mut map = PageIndexMap::new();
        for n in 0..100_000 {
            map.apply(run(order(n) * 2, 1, 7, 0), |_| {}).unwrap();
        }
        assert_eq!(map.len(), 100_000);
        let each = map.heap_bytes() as f64 / map.len() as f64;
        assert!(each <= 24.0, "{each} bytes a run");
        // Still compact after most of it went, a page here and a page there.
        for n in (0..100_000).filter(|n| n % 100 != 0) {
            map.remove(PageRun::new(PageIndex(n * 2), 1), |_| {});
        }
        let each = map.heap_bytes() as f64 / map.len() as f64;
        assert!(map.len() == 1000 && each <= 48.0, "{each} bytes a run");
    }
}

#[test]
fn live_bytes_follow_what_is_displaced() {
    let frame = |pack, stored_bytes| FrameRef {
        pack,
        offset: 16,
        stored_bytes,
        raw_bytes: 4 * 4096,
        codec: Codec::Lz4,
        digest: [0; 32],
    };
    let frames = [frame(0, 1000), frame(1, 800), frame(1, 8)];
    let (mut map, mut live) = (PageIndexMap::new(), LivePages::default());
    for (run, frame) in [
        (run(10, 4, 0, 0), 0),
        (run(20, 4, 2, 0), 2),
        (run(11, 4, 1, 0), 1),
    ] {
        live.add(frame, run.run.pages);
        map.apply(run, |part| live.displace(part)).unwrap();
    }
    assert_eq!(live.bytes_of_packs(&frames, 2), [250, 808]);
    map.remove(PageRun::new(PageIndex(0), 100), |part| live.displace(part));
    assert_eq!(live.bytes_of_packs(&frames, 2), [0, 0]);
    assert!(map.is_empty());
}
