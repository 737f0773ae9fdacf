//! How saves of an earlier daemon ended, for holds that come back.
//!
//! While it is not known whether the commit of a save happened, its tree is frozen, and the
//! workload's head may be changed to fence the commit off. A hold that comes back meanwhile has to
//! wait ([`Outcomes::settled`]): a right read from the head before that would be outdated.

use std::collections::{BTreeSet, VecDeque};

use tokio::sync::watch;

/// Most evacuations that are remembered.
const OUTCOMES_MAX: usize = 4096;

/// Evacuations by the identity of the hold, and saves that are not settled yet.
#[derive(Debug, Default)]
pub struct Outcomes(watch::Sender<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Identity of the hold, and the checkpoint that its workload goes on from elsewhere.
    evacuated: VecDeque<(String, String)>,
    /// Identities of holds whose last save is not settled.
    open: BTreeSet<String>,
}

impl Outcomes {
    /// Remembers that the workload of a hold was evacuated.
    pub fn insert(&self, instance: &str, checkpoint: &str) {
        self.0.send_modify(|known| {
            if known.evacuated.len() == OUTCOMES_MAX {
                known.evacuated.pop_front();
            }
            let entry = (instance.to_owned(), checkpoint.to_owned());
            known.evacuated.push_back(entry);
        });
    }

    /// The checkpoint to which the workload of a hold was evacuated.
    #[must_use]
    pub fn get(&self, instance: &str) -> Option<String> {
        let known = self.0.borrow();
        let mut newest_first = known.evacuated.iter().rev();
        let found = newest_first.find(|(one, _)| one == instance);
        found.map(|(_, checkpoint)| checkpoint.clone())
    }

    /// A save of this hold's workload is not settled.
    pub fn open(&self, instance: &str) {
        self.0.send_modify(|known| {
            known.open.insert(instance.to_owned());
        });
    }

    /// The save is settled.
    pub fn close(&self, instance: &str) {
        self.0.send_modify(|known| {
            known.open.remove(instance);
        });
    }

    /// Waits until no save of this hold's workload is open.
    pub async fn settled(&self, instance: &str) {
        let mut known = self.0.subscribe();
        let settled = known.wait_for(|known| !known.open.contains(instance));
        settled.await.expect("the sender is borrowed for as long");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hold_waits_until_its_own_save_is_settled() {
        let outcomes = Outcomes::default();
        outcomes.open("a");
        outcomes.settled("b").await;
        let waiting = outcomes.settled("a");
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        outcomes.insert("a", "c");
        assert!(futures::poll!(&mut waiting).is_pending());
        outcomes.close("a");
        waiting.await;
        assert_eq!(outcomes.get("a").as_deref(), Some("c"));
        assert_eq!(outcomes.get("b"), None);
    }
}
