//! Google Compute Engine.

use std::time::Duration;

use lifeboat_watch::{Cloud, Confidence, Kind, Source};

use super::support::{Watched, seconds};

#[tokio::test]
async fn a_flip_is_a_notice_with_the_configured_time() {
    let mut gce = Watched::start_with(&[Cloud::Gce], |_, config| {
        config.gce.notice = Duration::from_secs(115);
    })
    .await;
    gce.nothing().await;
    assert!(gce.control.set_gce("preempted", "TRUE"));
    let notice = gce.given().await;
    assert_eq!(
        (notice.kind, notice.confidence),
        (Kind::Preemption, Confidence::Certain)
    );
    assert_eq!(notice.sources, [Source::Gce]);
    assert_eq!(seconds(&notice), 115);
    gce.nothing().await;
}

#[tokio::test]
async fn a_flip_before_the_start_is_seen() {
    let mut gce = Watched::start_with(&[Cloud::Gce], |control, _| {
        control.set_gce("preempted", "TRUE");
    })
    .await;
    assert_eq!(gce.given().await.kind, Kind::Preemption);
}

#[tokio::test]
async fn a_flip_while_the_server_is_maintained_is_seen_afterwards_and_not_before() {
    let mut gce = Watched::start(&[Cloud::Gce]).await;
    gce.board_shows(|all| {
        all.iter()
            .any(|one| one.source == Source::Gce && one.works())
    })
    .await;
    gce.control.set_unavailable(true);
    gce.board_shows(|all| {
        all.iter()
            .any(|one| one.source == Source::Gce && !one.works())
    })
    .await;
    gce.control.set_gce("preempted", "TRUE");
    gce.nothing().await;
    gce.control.set_unavailable(false);
    assert_eq!(gce.given().await.kind, Kind::Preemption);
    // An error is not FALSE either: nothing is withdrawn by it.
    gce.control.set_unavailable(true);
    gce.nothing().await;
}

#[tokio::test]
async fn a_migration_is_an_early_signal_and_a_termination_is_maintenance() {
    let mut gce = Watched::start(&[Cloud::Gce]).await;
    gce.control
        .set_gce("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE");
    let early = gce.given().await;
    assert_eq!(early.kind, Kind::Early);
    assert_eq!(*gce.hurry.borrow(), Some(Kind::Early));
    gce.control.set_gce("maintenance-event", "NONE");
    assert_eq!(gce.withdrawn().await.number, early.number);
    assert_eq!(*gce.hurry.borrow(), None);
    gce.control
        .set_gce("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE");
    let notice = gce.given().await;
    assert_eq!((notice.kind, seconds(&notice)), (Kind::Maintenance, 55));
}

#[tokio::test]
async fn a_flip_back_withdraws_the_notice() {
    let mut gce = Watched::start(&[Cloud::Gce]).await;
    gce.control.set_gce("preempted", "TRUE");
    let notice = gce.given().await;
    gce.control.set_gce("preempted", "FALSE");
    assert_eq!(gce.withdrawn().await.number, notice.number);
}
