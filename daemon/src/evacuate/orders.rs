//! What a save must keep to. It may change while the save goes on: a notice may turn out more urgent
//! than it was, and a plan is made again every few hundred milliseconds.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::deadline::Deadline;

/// What holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Until when it must be committed.
    pub deadline: Deadline,
    /// Until when memory may be sent while the program runs; then it is frozen. `None`: nobody has
    /// reckoned it.
    pub freeze_by: Option<Instant>,
}

/// What holds, and whether that changes.
#[derive(Clone, Debug)]
pub struct Orders(watch::Receiver<Order>);

impl From<Deadline> for Order {
    fn from(deadline: Deadline) -> Self {
        Self {
            deadline,
            freeze_by: None,
        }
    }
}

impl From<Deadline> for Orders {
    /// Nothing changes any more.
    fn from(deadline: Deadline) -> Self {
        Self::changing(deadline.into()).1
    }
}

impl Orders {
    /// Orders that whoever has the sender may change.
    #[must_use]
    pub fn changing(first: Order) -> (watch::Sender<Order>, Self) {
        let (sender, receiver) = watch::channel(first);
        (sender, Self(receiver))
    }

    /// Until when the save must be committed, as things are.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.0.borrow().deadline
    }

    /// When the program must be frozen at the latest, if that was reckoned.
    #[must_use]
    pub fn freeze_by(&self) -> Option<Instant> {
        self.0.borrow().freeze_by
    }

    /// Waits until `grace` after the deadline, wherever it moves meanwhile.
    pub async fn passed(&self, grace: Duration) {
        let mut orders = self.0.clone();
        loop {
            let end = orders.borrow_and_update().deadline.instant();
            let end = end.and_then(|end| end.checked_add(grace));
            let passed = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => return,
                changed = orders.changed() => if changed.is_err() {
                    // It stays as it is.
                    return match end {
                        Some(end) => tokio::time::sleep_until(end.into()).await,
                        None => std::future::pending().await,
                    };
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_deadline_that_moves_nearer_is_kept() {
        let (change, orders) = Orders::changing(Deadline::within(LONG).into());
        let waiting = tokio::spawn(async move { orders.passed(Duration::ZERO).await });
        tokio::task::yield_now().await;
        change.send_modify(|order| order.deadline = Deadline::at(Some(Instant::now())));
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .expect("it waits for the old deadline")
            .unwrap();
    }

    #[tokio::test]
    async fn whoever_gave_the_orders_may_go() {
        let orders = Orders::from(Deadline::within(Duration::from_millis(20)));
        tokio::time::timeout(Duration::from_secs(60), orders.passed(Duration::ZERO))
            .await
            .expect("the deadline stays");
    }
}
