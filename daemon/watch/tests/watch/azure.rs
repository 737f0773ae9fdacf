//! Azure.

use std::time::Duration;

use lifeboat_watch::{Answered, Cloud, Kind};

use super::support::{LIMIT, Watched, seconds};

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

impl Watched {
    /// Answers a notice: of `workloads`, `saved` were.
    fn answer(&self, number: u64, workloads: usize, saved: usize) {
        self.watching.answered.send_replace(Answered {
            number,
            workloads,
            saved,
        });
    }

    async fn wait_for_approval(&self) -> Vec<String> {
        let looks = async {
            while self.control.approved().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, looks).await.unwrap();
        self.control.approved()
    }
}

#[tokio::test]
async fn an_event_of_this_machine_is_a_notice_and_one_of_another_is_not() {
    let mut azure = Watched::start(&[Cloud::Azure]).await;
    azure
        .control
        .schedule_for("Preempt", HALF_A_MINUTE, &["somebody-else"]);
    azure.nothing().await;
    let id = azure.control.schedule("Preempt", HALF_A_MINUTE);
    let notice = azure.given().await;
    assert_eq!(notice.kind, Kind::Preemption);
    assert!((28..=30).contains(&seconds(&notice)), "{notice:?}");
    azure.nothing().await;
    assert!(azure.control.cancel(&id));
    assert_eq!(azure.withdrawn().await.number, notice.number);
}

#[tokio::test]
async fn the_first_call_may_take_its_time() {
    let mut azure = Watched::start_with(&[Cloud::Azure], |control, _| {
        // Longer than any other answer may take.
        control.set_first_call_delay(Duration::from_secs(6));
        control.schedule("Reboot", HALF_A_MINUTE);
    })
    .await;
    assert_eq!(azure.given().await.kind, Kind::Maintenance);
}

#[tokio::test]
async fn an_event_is_approved_when_everything_is_saved_and_not_before() {
    let mut azure = Watched::start_with(&[Cloud::Azure], |_, config| {
        config.azure.approve = true;
    })
    .await;
    let id = azure.control.schedule("Preempt", HALF_A_MINUTE);
    let shared =
        azure
            .control
            .schedule_for("Redeploy", HALF_A_MINUTE, &["lifeboat-vm", "somebody-else"]);
    let number = azure.given().await.number;
    azure.nothing().await;
    // Not all are; and where there was nothing to save, somebody else may need the time.
    azure.answer(number, 2, 1);
    azure.nothing().await;
    azure.answer(number, 0, 0);
    azure.nothing().await;
    assert_eq!(azure.control.approved(), Vec::<String>::new());
    azure.answer(number, 2, 2);
    let approved = azure.wait_for_approval().await;
    // Another machine's event is not ours to approve.
    assert!(!approved.contains(&shared));
    assert_eq!(approved, [id]);
}

#[tokio::test]
async fn nothing_is_approved_unless_that_is_wanted() {
    let mut azure = Watched::start(&[Cloud::Azure]).await;
    azure.control.schedule("Preempt", HALF_A_MINUTE);
    let number = azure.given().await.number;
    azure.answer(number, 1, 1);
    azure.nothing().await;
    assert_eq!(azure.control.approved(), Vec::<String>::new());
}
