//! EC2.

use std::time::Duration;

use lifeboat_watch::{Cloud, Confidence, Kind, Source};

use super::support::{Watched, seconds};

const TWO_MINUTES: Duration = Duration::from_secs(120);

#[tokio::test]
async fn an_action_is_a_notice_with_its_time_and_can_be_taken_back() {
    for action in ["terminate", "stop", "hibernate"] {
        let mut aws = Watched::start(&[Cloud::Aws]).await;
        aws.nothing().await;
        aws.control.set_instance_action(Some((action, TWO_MINUTES)));
        let notice = aws.given().await;
        assert_eq!(
            (notice.kind, notice.confidence),
            (Kind::Preemption, Confidence::Certain)
        );
        // Times of clouds are whole seconds.
        assert!((118..=120).contains(&seconds(&notice)), "{notice:?}");
        aws.nothing().await;
        aws.control.set_instance_action(None);
        assert_eq!(aws.withdrawn().await.number, notice.number);
    }
}

#[tokio::test]
async fn a_recommendation_comes_first_and_becomes_the_same_notice() {
    let mut aws = Watched::start(&[Cloud::Aws]).await;
    aws.control.set_rebalance(true);
    let early = aws.given().await;
    assert_eq!(
        (early.kind, early.confidence),
        (Kind::Early, Confidence::Hint)
    );
    assert_eq!(early.deadline, None);
    assert_eq!(*aws.hurry.borrow(), Some(Kind::Early));
    aws.control
        .set_instance_action(Some(("terminate", TWO_MINUTES)));
    let lifeboat_watch::Change::Changed(notice) = aws.next().await else {
        panic!("another notice");
    };
    assert_eq!(
        (notice.number, notice.kind),
        (early.number, Kind::Preemption)
    );
    assert_eq!(*aws.hurry.borrow(), Some(Kind::Preemption));
}

#[tokio::test]
async fn a_service_that_forgets_its_tokens_is_given_new_ones() {
    let mut aws = Watched::start(&[Cloud::Aws]).await;
    let works = |all: &[lifeboat_watch::SourceStatus]| {
        all.iter()
            .any(|one| one.source == Source::Aws && one.works())
    };
    aws.board_shows(works).await;
    aws.control.forget_tokens();
    aws.control.set_instance_action(Some(("stop", TWO_MINUTES)));
    assert_eq!(aws.given().await.kind, Kind::Preemption);
    aws.board_shows(works).await;
    // It never failed: the 401 was answered with a new token.
    let status = aws.board.sources();
    let status = status.iter().find(|one| one.source == Source::Aws).unwrap();
    assert_eq!(status.failed, None);
}

#[tokio::test]
async fn an_error_withdraws_nothing() {
    let mut aws = Watched::start(&[Cloud::Aws]).await;
    aws.control
        .set_instance_action(Some(("terminate", TWO_MINUTES)));
    aws.given().await;
    aws.control.set_unavailable(true);
    aws.nothing().await;
    aws.control.set_unavailable(false);
    aws.nothing().await;
}
