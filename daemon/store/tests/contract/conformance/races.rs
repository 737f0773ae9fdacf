//! Many writers, one winner.

use std::{sync::Arc, time::Duration};

use lifeboat_store::{ErrorKind, Version};

use super::{NOW, Shared, bytes, key};

/// Writers that meet.
const WRITERS: usize = 8;
/// How often they do.
const ROUNDS: u64 = 12;

/// Size of an object that takes a while to compare.
const LARGE: usize = 4 << 20;

/// What one of the writers got.
type Outcome = (u64, Result<Version, ErrorKind>);

/// Runs one write for each writer at the same time.
async fn meet<F>(write: impl Fn(u64) -> F) -> Vec<Outcome>
where
    F: Future<Output = lifeboat_store::Result<Version>> + Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(WRITERS));
    let tasks: Vec<_> = (0..)
        .take(WRITERS)
        .map(|writer| {
            let (barrier, write) = (Arc::clone(&barrier), write(writer));
            tokio::spawn(async move {
                barrier.wait().await;
                (writer, write.await.map_err(|error| error.kind()))
            })
        })
        .collect();
    futures::future::join_all(tasks)
        .await
        .into_iter()
        .map(|done| done.unwrap())
        .collect()
}

/// The one winner; the others lost as `lost` or met another writer.
fn winner(outcomes: &[Outcome], lost: ErrorKind) -> (u64, Version) {
    let mut winners = outcomes.iter().filter_map(|(writer, result)| {
        result
            .as_ref()
            .ok()
            .map(|version| (*writer, version.clone()))
    });
    let winner = winners
        .next()
        .unwrap_or_else(|| panic!("somebody wins: {outcomes:?}"));
    assert_eq!(winners.next(), None, "only one wins: {outcomes:?}");
    for (_, result) in outcomes {
        // Transient: a server that tells writers who met to try again (409).
        assert!(
            matches!(result, Ok(_) | Err(ErrorKind::Transient)) || *result == Err(lost),
            "{outcomes:?}"
        );
    }
    winner
}

pub(crate) async fn one_creator_wins(store: Shared) {
    for round in 0..ROUNDS {
        let name = key(&format!("workloads/w/checkpoints/{round}"));
        let outcomes = meet(|writer| {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move { store.put_if_absent(&name, bytes(writer, 500), NOW).await }
        })
        .await;
        let (writer, version) = winner(&outcomes, ErrorKind::AlreadyExists);
        let object = store.get(&name, 500, NOW).await.unwrap();
        assert_eq!(
            (object.bytes, object.version),
            (bytes(writer, 500), version)
        );
    }
}

pub(crate) async fn one_replacer_wins(store: Shared) {
    let name = key("workloads/w/head");
    let mut current = store
        .put_if_absent(&name, bytes(u64::MAX, 500), NOW)
        .await
        .unwrap();
    for round in 1..=ROUNDS {
        let seed = move |writer| round * 1000 + writer;
        let outcomes = meet(|writer| {
            let (store, name, current) = (Arc::clone(&store), name.clone(), current.clone());
            async move {
                store
                    .put_if_match(&name, bytes(seed(writer), 500), &current, NOW)
                    .await
            }
        })
        .await;
        let (writer, version) = winner(&outcomes, ErrorKind::Conflict);
        let object = store.get(&name, 500, NOW).await.unwrap();
        assert_eq!(
            (&object.bytes, &object.version),
            (&bytes(seed(writer), 500), &version)
        );
        current = version;
    }
}

/// Replacing and deleting at once: whoever is last, an object that was deleted stays so unless a
/// replacement was reported before the deletion began.
pub(crate) async fn nothing_deleted_comes_back(store: Shared) {
    for round in 0..3 * ROUNDS {
        let name = key(&format!("heads/{round}"));
        let version = store
            .put_if_absent(&name, bytes(round, LARGE), NOW)
            .await
            .unwrap();
        let replace = {
            let (store, name) = (Arc::clone(&store), name.clone());
            let body = bytes(round + 1000, 500);
            tokio::spawn(async move { store.put_if_match(&name, body, &version, NOW).await })
        };
        let delete = {
            let (store, name) = (Arc::clone(&store), name.clone());
            let delay = Duration::from_millis(round % 12);
            tokio::spawn(async move {
                // Meets the replacement at another point each time.
                tokio::time::sleep(delay).await;
                store.delete(&name, NOW).await
            })
        };
        let (replaced, deleted) = (replace.await.unwrap(), delete.await.unwrap());
        deleted.unwrap();
        assert!(
            replaced.is_ok()
                || replaced
                    .as_ref()
                    .is_err_and(|e| e.kind() == ErrorKind::Conflict),
            "{replaced:?}"
        );
        // Deletion came last, or the replacement saw nothing to replace: gone either way.
        let left = store.head(&name, NOW).await;
        assert!(
            left.as_ref().is_err_and(|error| error.is_not_found()),
            "{replaced:?} {left:?}"
        );
    }
}
