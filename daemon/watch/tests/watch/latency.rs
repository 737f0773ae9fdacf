//! How long it takes from an event to its notice.
//!
//! The bounds are wide, since tests share their machine; what was measured is printed.

use std::time::{Duration, Instant};

use lifeboat_watch::Cloud;

use super::support::{POLL, Watched};

/// Events in a row.
const RUNS: usize = 200;

#[expect(clippy::print_stdout, reason = "what was measured is of interest")]
fn report(name: &str, mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    let at = |share: usize| all[(all.len() - 1) * share / 100];
    println!(
        "{name}: p50 {:?}, p99 {:?}, max {:?} of {}",
        at(50),
        at(99),
        at(100),
        all.len()
    );
    at(99)
}

#[tokio::test(flavor = "multi_thread")]
async fn google_s_flip_is_known_within_a_tenth_of_a_second() {
    let mut gce = Watched::start(&[Cloud::Gce]).await;
    let mut all = Vec::new();
    for _ in 0..RUNS {
        let flipped = Instant::now();
        gce.control.set_gce("preempted", "TRUE");
        gce.given().await;
        all.push(flipped.elapsed());
        gce.control.set_gce("preempted", "FALSE");
        gce.withdrawn().await;
    }
    assert!(report("gce", all) < Duration::from_millis(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_asked_tell_within_their_interval() {
    let mut aws = Watched::start(&[Cloud::Aws]).await;
    let mut azure = Watched::start(&[Cloud::Azure]).await;
    let (mut of_aws, mut of_azure) = (Vec::new(), Vec::new());
    let minutes = Duration::from_secs(120);
    for _ in 0..RUNS / 4 {
        let set = Instant::now();
        aws.control
            .set_instance_action(Some(("terminate", minutes)));
        aws.given().await;
        of_aws.push(set.elapsed());
        aws.control.set_instance_action(None);
        aws.withdrawn().await;
        let set = Instant::now();
        let id = azure.control.schedule("Preempt", minutes);
        azure.given().await;
        of_azure.push(set.elapsed());
        azure.control.cancel(&id);
        azure.withdrawn().await;
    }
    let slack = Duration::from_millis(200);
    assert!(report("aws", of_aws) < POLL + slack);
    assert!(report("azure", of_azure) < POLL + slack);
}
