//! Several sources at once.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lifeboat_watch::{
    Change, Cloud, Confidence, Kind, Merge, Notice, SIGHTINGS_MAX, Scope, Sighting, Source,
};
use proptest::prelude::*;

use super::support::{Watched, seconds};

fn sighting(source: Source, key: &str, kind: Kind, within: u64) -> Sighting {
    Sighting::new(source, key)
        .kind(kind)
        .within(Duration::from_secs(within))
}

#[tokio::test]
async fn what_two_sources_see_is_one_notice_with_the_earlier_deadline() {
    let mut both = Watched::start(&[Cloud::Gce, Cloud::Aws]).await;
    let minutes = Duration::from_secs(120);
    both.control
        .set_instance_action(Some(("terminate", minutes)));
    let first = both.given().await;
    both.control.set_gce("preempted", "TRUE");
    let Change::Changed(notice) = both.next().await else {
        panic!("another notice");
    };
    assert_eq!(notice.number, first.number);
    assert_eq!(notice.sources, [Source::Aws, Source::Gce]);
    assert_eq!(seconds(&notice), 25);
    // One takes it back, the other does not: it stands.
    both.control.set_gce("preempted", "FALSE");
    let Change::Changed(notice) = both.next().await else {
        panic!("withdrawn");
    };
    assert!(seconds(&notice) > 100);
    both.control.set_instance_action(None);
    both.withdrawn().await;
}

#[tokio::test]
async fn a_file_gives_notice_and_takes_it_back() {
    let mut local = Watched::start(&[]).await;
    std::fs::write(local.state.path().join("notice"), "7s").unwrap();
    let notice = local.given().await;
    assert_eq!(
        (notice.sources.as_slice(), seconds(&notice)),
        ([Source::File].as_slice(), 7)
    );
    std::fs::write(local.state.path().join("notice-withdrawn"), "").unwrap();
    local.withdrawn().await;
}

#[tokio::test]
async fn a_call_is_a_source_like_any_other() {
    let mut local = Watched::start(&[]).await;
    let call = sighting(Source::Call, "call", Kind::Preemption, 9);
    local.watching.feed.seen(call.clone()).await;
    local.watching.feed.seen(call).await;
    let first = local.given().await;
    assert_eq!(first.sources, [Source::Call]);
    // Said anew, it is the same notice, told twice.
    let Change::Changed(second) = local.next().await else {
        panic!("another notice");
    };
    assert_eq!((second.number, second.tellings), (first.number, 2));
    local.watching.feed.gone(Source::Call, "call").await;
    local.withdrawn().await;
}

#[tokio::test]
async fn what_was_said_once_is_over_after_its_time() {
    let mut local = Watched::start(&[]).await;
    let state = local.state.path().to_owned();
    std::fs::write(state.join("notice"), "10ms").unwrap();
    let first = local.given().await;
    assert_eq!(local.withdrawn().await.number, first.number);
    std::fs::write(state.join("notice"), "10ms").unwrap();
    assert!(local.given().await.number > first.number);
}

#[test]
fn a_repetition_postpones_nothing_and_a_downgrade_is_a_withdrawal() {
    let mut merge = Merge::default();
    let seen =
        |merge: &mut Merge, kind, within| merge.seen(sighting(Source::Gce, "k", kind, within));
    assert!(matches!(
        seen(&mut merge, Kind::Preemption, 20)[..],
        [Change::Given(_)]
    ));
    assert_eq!(seen(&mut merge, Kind::Preemption, 90), []);
    assert!(matches!(
        seen(&mut merge, Kind::Preemption, 10)[..],
        [Change::Changed(_)]
    ));
    let changes = seen(&mut merge, Kind::Early, 60);
    let [Change::Withdrawn(old), Change::Given(new)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert!(old.number < new.number && new.kind == Kind::Early);
}

#[test]
fn a_pod_is_not_the_machine() {
    let mut merge = Merge::default();
    let pod = |uid: &str| Scope::Pod { uid: uid.into() };
    let seen = |merge: &mut Merge, key: &str, scope| {
        merge.seen(sighting(Source::Kubernetes, key, Kind::Preemption, 30).scope(scope))
    };
    for (key, scope) in [("a", pod("1")), ("b", pod("2")), ("node", Scope::Machine)] {
        assert!(matches!(
            seen(&mut merge, key, scope)[..],
            [Change::Given(_)]
        ));
    }
    assert!(matches!(
        merge.gone(Source::Kubernetes, "a")[..],
        [Change::Withdrawn(_)]
    ));
    assert_eq!(merge.given().len(), 2);
}

#[test]
fn sightings_are_bounded() {
    let mut merge = Merge::default();
    for number in 0..SIGHTINGS_MAX + 10 {
        merge.seen(sighting(Source::Call, &number.to_string(), Kind::Early, 30));
    }
    for number in 0..SIGHTINGS_MAX {
        merge.gone(Source::Call, &number.to_string());
    }
    assert_eq!(merge.given(), []);
}

/// What a source says in a random run.
#[derive(Clone, Debug)]
enum Step {
    Seen(Source, u8, Kind, u64, Confidence),
    Gone(Source, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let source = || prop::sample::select(vec![Source::Gce, Source::Aws, Source::File]);
    let kind = prop::sample::select(vec![Kind::Early, Kind::Maintenance, Kind::Preemption]);
    let sure = prop::sample::select(vec![
        Confidence::Hint,
        Confidence::Likely,
        Confidence::Certain,
    ]);
    prop_oneof![
        (source(), 0..2_u8, kind, 5..100_u64, sure).prop_map(
            |(source, key, kind, within, sure)| Step::Seen(source, key, kind, within, sure)
        ),
        (source(), 0..2_u8).prop_map(|(source, key)| Step::Gone(source, key)),
    ]
}

proptest! {
    /// The stream of changes, followed, is always what stands; and that is a function of the sightings.
    #[test]
    fn whoever_follows_the_changes_knows_what_stands(steps in prop::collection::vec(step(), 0..60)) {
        let start = Instant::now();
        let mut merge = Merge::default();
        let mut followed: Option<Notice> = None;
        let mut standing: Vec<Sighting> = Vec::new();
        let mut numbers = BTreeSet::new();
        for step in steps {
            let changes = match step {
                Step::Seen(source, key, kind, within, sure) => {
                    let key = key.to_string();
                    let mut sighting = Sighting::new(source, &key).kind(kind).confidence(sure);
                    sighting.deadline = Some(start + Duration::from_secs(within));
                    let at = standing.iter().position(|one| one.source == source && one.key == key);
                    let mut model = sighting.clone();
                    if let Some(at) = at {
                        if standing[at].kind == kind {
                            model.deadline = model.deadline.min(standing[at].deadline);
                        }
                        standing[at] = model;
                    } else {
                        standing.push(model);
                    }
                    merge.seen(sighting)
                }
                Step::Gone(source, key) => {
                    let key = key.to_string();
                    standing.retain(|one| one.source != source || one.key != key);
                    merge.gone(source, &key)
                }
            };
            for change in changes {
                match change {
                    Change::Given(notice) => {
                        prop_assert!(followed.is_none() && numbers.insert(notice.number));
                        followed = Some(notice);
                    }
                    Change::Changed(notice) => {
                        let before = followed.replace(notice.clone());
                        prop_assert_eq!(before.map(|one| one.number), Some(notice.number));
                    }
                    Change::Withdrawn(notice) => {
                        let before = followed.take();
                        prop_assert_eq!(before.map(|one| one.number), Some(notice.number));
                    }
                }
            }
            let kind = standing.iter().map(|one| one.kind).max();
            prop_assert_eq!(followed.as_ref().map(|one| one.kind), kind);
            let of_class = || standing.iter().filter(|one| {
                Some(one.kind.ends_programs()) == kind.map(Kind::ends_programs)
            });
            if let Some(notice) = &followed {
                prop_assert_eq!(notice.deadline, of_class().filter_map(|one| one.deadline).min());
                prop_assert_eq!(Some(notice.confidence), of_class().map(|one| one.confidence).max());
            }
        }
    }
}
