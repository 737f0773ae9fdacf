//! Conditional writes whose answers are lost, late, or contested.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use lifeboat_store::{
    Call, ErrorKind, Key, Meta, Object, Operation, Page, Prefix, Result, Store, StoreError,
    Version, memory::Memory, retry::Retrying,
};
use tokio::time::Instant;

use crate::{BODY, Sea, TOLERANCE, key, sea, secs, soon};

const OTHER: Bytes = Bytes::from_static(b"what another writer wrote");

async fn content(sea: &Sea) -> (Bytes, Version) {
    let object = sea.calm.get(&key("head"), 99, soon()).await.unwrap();
    (object.bytes, object.version)
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_out_by_reading_back() {
    let sea = sea("create.lose;replace.lose");
    let first = sea
        .store
        .put_if_absent(&key("head"), OTHER, soon())
        .await
        .unwrap();
    assert_eq!(content(&sea).await, (OTHER, first.clone()));
    let second = sea
        .store
        .put_if_match(&key("head"), BODY, &first, soon())
        .await
        .unwrap();
    assert_eq!(content(&sea).await, (BODY, second));
    let calls = [
        Operation::PutIfAbsent,
        Operation::PutIfMatch,
        Operation::Get,
    ];
    assert_eq!(
        calls.map(|operation| sea.faulty.calls(operation)),
        [1, 1, 2]
    );
}

#[tokio::test(start_paused = true)]
async fn what_did_not_happen_is_done_again() {
    let sea = sea("create.fail:unknown@1-3;replace.fail:unknown@1-3");
    let first = sea
        .store
        .put_if_absent(&key("head"), OTHER, soon())
        .await
        .unwrap();
    let second = sea
        .store
        .put_if_match(&key("head"), BODY, &first, soon())
        .await
        .unwrap();
    assert_eq!(content(&sea).await, (BODY, second));
    // The one that is to be replaced may be larger than the new one.
    let third = Bytes::from_static(b"x");
    sea.change("replace.fail:unknown@1");
    let (_, second) = content(&sea).await;
    sea.store
        .put_if_match(&key("head"), third.clone(), &second, soon())
        .await
        .unwrap();
    assert_eq!(content(&sea).await.0, third);
}

#[tokio::test(start_paused = true)]
async fn writers_who_met_try_again() {
    let sea = sea("create.fail:transient@1-3");
    sea.store
        .put_if_absent(&key("head"), BODY, soon())
        .await
        .unwrap();
    assert_eq!(sea.faulty.calls(Operation::PutIfAbsent), 4);
    assert_eq!(sea.faulty.calls(Operation::Get), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rival_who_comes_in_between_wins() {
    let sea = sea("create.fail:unknown@1;get.delay:1s");
    let ours = async { sea.store.put_if_absent(&key("head"), BODY, soon()).await };
    let rival = async {
        sea.calm
            .put_if_absent(&key("head"), OTHER, soon())
            .await
            .unwrap()
    };
    let (ours, rival) = tokio::join!(ours, rival);
    assert_eq!(ours.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(content(&sea).await, (OTHER, rival.clone()));

    sea.change("replace.fail:unknown@1;get.delay:1s");
    let ours = async {
        sea.store
            .put_if_match(&key("head"), BODY, &rival, soon())
            .await
    };
    let third = Bytes::from_static(b"a third writer");
    let other = async {
        sea.calm
            .put(&key("head"), third.clone(), soon())
            .await
            .unwrap()
    };
    let (ours, ()) = tokio::join!(ours, other);
    assert_eq!(ours.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(content(&sea).await.0, third);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_found_out_is_unknown() {
    let sea = sea("create.lose;read.fail:transient");
    let began = Instant::now();
    let error = sea
        .store
        .put_if_absent(&key("head"), BODY, soon())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    assert!(
        began.elapsed() <= secs(10) + TOLERANCE,
        "{:?}",
        began.elapsed()
    );
    let sea = self::sea("create.lose;read.fail:denied");
    let error = sea
        .store
        .put_if_absent(&key("head"), BODY, soon())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
}

/// A server that does a first write late: after it was read back, before the second.
#[derive(Debug)]
struct Late {
    inner: Memory,
    pending: Mutex<Option<Bytes>>,
    begun: AtomicBool,
}

#[async_trait::async_trait]
impl Store for Late {
    async fn put(&self, key: &Key, body: Bytes, call: Call) -> Result<()> {
        self.inner.put(key, body, call).await
    }
    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        if !self.begun.swap(true, Ordering::SeqCst) {
            *self.pending.lock().unwrap() = Some(body);
            let operation = Operation::PutIfAbsent;
            return Err(StoreError::new(ErrorKind::Unknown, operation, key, "lost"));
        }
        let late = self.pending.lock().unwrap().take();
        if let Some(late) = late {
            self.inner.put_if_absent(key, late, call).await?;
        }
        self.inner.put_if_absent(key, body, call).await
    }
    async fn put_if_match(&self, k: &Key, b: Bytes, v: &Version, c: Call) -> Result<Version> {
        self.inner.put_if_match(k, b, v, c).await
    }
    async fn get(&self, k: &Key, max: u64, c: Call) -> Result<Object> {
        self.inner.get(k, max, c).await
    }
    async fn get_range(&self, k: &Key, offset: u64, len: u64, c: Call) -> Result<Bytes> {
        self.inner.get_range(k, offset, len, c).await
    }
    async fn head(&self, k: &Key, c: Call) -> Result<Meta> {
        self.inner.head(k, c).await
    }
    async fn list(&self, p: &Prefix, k: Option<&Key>, c: Call) -> Result<Page> {
        self.inner.list(p, k, c).await
    }
    async fn delete(&self, k: &Key, c: Call) -> Result<()> {
        self.inner.delete(k, c).await
    }
    fn describe(&self) -> String {
        "late:".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_lands_late_is_recognised_as_ours() {
    let inner = Memory::new();
    let late = Late {
        inner: inner.clone(),
        pending: None.into(),
        begun: false.into(),
    };
    let store = Retrying::new(Arc::new(late));
    let version = store
        .put_if_absent(&key("head"), BODY, soon())
        .await
        .unwrap();
    let object = inner.get(&key("head"), 99, soon()).await.unwrap();
    assert_eq!((object.bytes, object.version), (BODY, version));
}

/// What was said about the words that one writer tried to write.
#[derive(Default)]
struct Said {
    written: Vec<String>,
    conflicts: Vec<String>,
    unknown: Vec<String>,
}

/// Appends `times` words to an object by compare-and-set.
async fn append(store: Arc<Retrying>, writer: u64, times: u64) -> Said {
    let mut said = Said::default();
    let mut words = 0;
    for _ in 0..times {
        loop {
            words += 1;
            let word = format!("{writer}.{words}");
            let object = store
                .get(&key("head"), 9999, Call::default())
                .await
                .unwrap();
            let text = std::str::from_utf8(&object.bytes).unwrap();
            let body = Bytes::from(format!("{text} {word}"));
            let call = Call::within(secs(20));
            match store
                .put_if_match(&key("head"), body, &object.version, call)
                .await
            {
                Ok(_) => said.written.push(word),
                // It may have been written and replaced by another writer's, who then had read it.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    said.conflicts.push(word);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Unknown => said.unknown.push(word),
                Err(error) => panic!("{error}"),
            }
            break;
        }
    }
    said
}

#[tokio::test(start_paused = true)]
async fn no_update_is_lost_or_done_twice_whatever_fails() {
    let (mut all_written, mut all_unknown) = (0, 0);
    for seed in 0..100 {
        let sea = sea(&format!(
            "seed={seed};any.delay:7ms;any.fail:transient@p0.1;any.lose@p0.1;\
             write.fail:unknown@p0.1;any.delay:3s@p0.05;any.hang@p0.02"
        ));
        sea.calm
            .put(&key("head"), Bytes::from_static(b"begin"), soon())
            .await
            .unwrap();
        let writers = (0..3).map(|writer| append(Arc::clone(&sea.store), writer, 5));
        let done = futures::future::join_all(writers).await;
        let object = sea.calm.get(&key("head"), 9999, soon()).await.unwrap();
        let history: Vec<_> = std::str::from_utf8(&object.bytes)
            .unwrap()
            .split(' ')
            .collect();
        for Said {
            written,
            conflicts,
            unknown,
        } in &done
        {
            for word in written {
                let times = history.iter().filter(|seen| *seen == word).count();
                assert_eq!(times, 1, "seed {seed}: {word} in {history:?}");
            }
            for word in conflicts {
                // It was not written, or another writer had the next word.
                let at = history.iter().position(|seen| seen == word);
                let next = at.map(|at| history[at + 1].split('.').next());
                assert_ne!(
                    next,
                    Some(word.split('.').next()),
                    "seed {seed}: {word} {history:?}"
                );
            }
            all_written += written.len();
            all_unknown += unknown.len();
        }
        let mut distinct = history.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), history.len(), "seed {seed}: {history:?}");
    }
    assert!(
        all_written > 1400 && all_unknown < 100,
        "{all_written} {all_unknown}"
    );
}
