//! The contract of a store, point by point. Each backend's test names the points it is held to, so
//! that a point left out is seen. Every point gets an empty store of its own.

pub(crate) mod races;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use lifeboat_store::{
    Call, ErrorKind, KEY_BYTES_MAX, Key, LIST_PAGE_KEYS_MAX, Prefix, Result, SEGMENT_BYTES_MAX,
    Store, Version,
};

pub(crate) type Shared = Arc<dyn Store>;

/// Declares one test for each named point, each on the store that `$open` makes. `$open` returns
/// the store and whatever must live as long as it.
#[macro_export]
macro_rules! held_to {
    ($open:path: $($module:ident :: $point:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $point() {
                let (store, _keep) = $open().await;
                $module::$point(store).await;
            }
        )*
    };
}

pub(crate) const NOW: Call = Call { deadline: None };

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).expect("a test's key is valid")
}

/// Bytes that differ from each other and from those of another seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; len];
    for part in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
    }
    bytes.into()
}

#[track_caller]
pub(crate) fn fails_as<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(value) => panic!("expected a failure ({kind}), got {value:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}: {:?}", error),
    }
}

async fn read(store: &Shared, name: &str) -> Bytes {
    store
        .get(&key(name), 1 << 26, NOW)
        .await
        .expect("the object is there")
        .bytes
}

pub(crate) async fn what_was_put_is_read(store: Shared) {
    for (seed, len) in [0, 1, 4096, 100_000, 5 << 20].into_iter().enumerate() {
        let (name, body) = (key(&format!("sizes/{len}")), bytes(seed as u64, len));
        store.put(&name, body.clone(), NOW).await.unwrap();
        let object = store.get(&name, len as u64, NOW).await.unwrap();
        assert!(object.bytes == body, "{len} bytes come back as they were");
        let meta = store.head(&name, NOW).await.unwrap();
        assert_eq!((meta.size, meta.version), (len as u64, object.version));
    }
}

pub(crate) async fn put_replaces(store: Shared) {
    let name = key("a/b");
    store.put(&name, bytes(1, 1000), NOW).await.unwrap();
    store.put(&name, bytes(2, 10), NOW).await.unwrap();
    assert_eq!(read(&store, "a/b").await, bytes(2, 10));
}

pub(crate) async fn what_is_absent_is_not_found(store: Shared) {
    let name = key("nothing/here");
    fails_as(store.get(&name, 10, NOW).await, ErrorKind::NotFound);
    fails_as(
        store.get_range(&name, 0, 10, NOW).await,
        ErrorKind::NotFound,
    );
    fails_as(store.head(&name, NOW).await, ErrorKind::NotFound);
    store
        .delete(&name, NOW)
        .await
        .expect("deleting nothing succeeds");
}

pub(crate) async fn a_folder_is_no_object(store: Shared) {
    store
        .put(&key("folder/object"), bytes(1, 1), NOW)
        .await
        .unwrap();
    fails_as(
        store.get(&key("folder"), 10, NOW).await,
        ErrorKind::NotFound,
    );
    fails_as(store.head(&key("folder"), NOW).await, ErrorKind::NotFound);
}

pub(crate) async fn delete_deletes(store: Shared) {
    let name = key("a/b");
    store.put(&name, bytes(1, 10), NOW).await.unwrap();
    store.delete(&name, NOW).await.unwrap();
    fails_as(store.get(&name, 10, NOW).await, ErrorKind::NotFound);
    store.delete(&name, NOW).await.unwrap();
}

pub(crate) async fn get_is_bounded(store: Shared) {
    let name = key("bounded");
    store.put(&name, bytes(1, 1000), NOW).await.unwrap();
    fails_as(store.get(&name, 999, NOW).await, ErrorKind::TooLarge);
    assert_eq!(store.get(&name, 1000, NOW).await.unwrap().bytes.len(), 1000);
}

pub(crate) async fn ranges_are_exact(store: Shared) {
    let (name, body) = (key("ranges"), bytes(1, 100_000));
    store.put(&name, body.clone(), NOW).await.unwrap();
    for (start, end) in [
        (0, 1),
        (0, 100_000),
        (99_999, 100_000),
        (4096, 69_632),
        (17, 17),
    ] {
        let (offset, len) = (start as u64, (end - start) as u64);
        let got = store.get_range(&name, offset, len, NOW).await.unwrap();
        assert!(got == body.slice(start..end), "{start}..{end}");
    }
    for (offset, len) in [
        (0, 100_001),
        (99_999, 2),
        (100_000, 1),
        (u64::MAX, 1),
        (1, u64::MAX),
    ] {
        fails_as(
            store.get_range(&name, offset, len, NOW).await,
            ErrorKind::OutOfRange,
        );
    }
}

pub(crate) async fn create_is_refused_where_something_is(store: Shared) {
    let name = key("workloads/w/checkpoints/1");
    let version = store
        .put_if_absent(&name, bytes(1, 100), NOW)
        .await
        .unwrap();
    fails_as(
        store.put_if_absent(&name, bytes(2, 100), NOW).await,
        ErrorKind::AlreadyExists,
    );
    let object = store.get(&name, 100, NOW).await.unwrap();
    assert_eq!((object.bytes, object.version), (bytes(1, 100), version));
    store.delete(&name, NOW).await.unwrap();
    store
        .put_if_absent(&name, bytes(2, 100), NOW)
        .await
        .unwrap();
    assert_eq!(read(&store, name.as_str()).await, bytes(2, 100));
}

pub(crate) async fn replace_needs_the_current_version(store: Shared) {
    let name = key("workloads/w/head");
    let first = store
        .put_if_absent(&name, bytes(1, 100), NOW)
        .await
        .unwrap();
    let second = store
        .put_if_match(&name, bytes(2, 100), &first, NOW)
        .await
        .unwrap();
    assert_ne!(first, second);
    fails_as(
        store.put_if_match(&name, bytes(3, 100), &first, NOW).await,
        ErrorKind::Conflict,
    );
    let object = store.get(&name, 100, NOW).await.unwrap();
    assert_eq!((object.bytes, &object.version), (bytes(2, 100), &second));
    assert_eq!(store.head(&name, NOW).await.unwrap().version, second);
    store
        .put_if_match(&name, bytes(4, 100), &object.version, NOW)
        .await
        .unwrap();
}

pub(crate) async fn replace_of_nothing_is_a_conflict(store: Shared) {
    let name = key("workloads/w/head");
    let version = store.put_if_absent(&name, bytes(1, 10), NOW).await.unwrap();
    store.delete(&name, NOW).await.unwrap();
    fails_as(
        store.put_if_match(&name, bytes(2, 10), &version, NOW).await,
        ErrorKind::Conflict,
    );
    fails_as(store.get(&name, 10, NOW).await, ErrorKind::NotFound);
}

pub(crate) async fn replace_with_a_foreign_version_is_a_conflict(store: Shared) {
    let (one, other) = (key("heads/one"), key("heads/other"));
    store.put_if_absent(&one, bytes(1, 10), NOW).await.unwrap();
    let version = store
        .put_if_absent(&other, bytes(2, 10), NOW)
        .await
        .unwrap();
    fails_as(
        store.put_if_match(&one, bytes(3, 10), &version, NOW).await,
        ErrorKind::Conflict,
    );
    assert_eq!(read(&store, "heads/one").await, bytes(1, 10));
    // Nor does a version that was never given out do harm.
    let version = Version::new("\"00000000000000000000000000000001\"");
    let result = store.put_if_match(&one, bytes(3, 10), &version, NOW).await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(read(&store, "heads/one").await, bytes(1, 10));
}

async fn listed(store: &Shared, prefix: &str, after: Option<&str>) -> Vec<String> {
    let (prefix, after) = (Prefix::new(prefix).unwrap(), after.map(key));
    let page = store.list(&prefix, after.as_ref(), NOW).await.unwrap();
    assert_eq!(page.next, None, "few keys fit into one page");
    page.entries
        .iter()
        .map(|entry| entry.key.as_str().to_owned())
        .collect()
}

pub(crate) async fn lists_are_in_byte_order(store: Shared) {
    // '-' and '.' sort before '/', digits and letters after it.
    let sorted = ["a-b", "a.b", "a/a", "a/b/c", "a/b/d", "a0", "b/x", "b/y"];
    for (seed, name) in sorted.iter().rev().enumerate() {
        store
            .put(&key(name), bytes(seed as u64, 10), NOW)
            .await
            .unwrap();
    }
    assert_eq!(listed(&store, "", None).await, sorted);
    for (at, name) in sorted.iter().enumerate() {
        assert_eq!(
            listed(&store, "", Some(name)).await,
            sorted[at + 1..],
            "after {name}"
        );
    }
    assert_eq!(listed(&store, "", Some("a/b/c0")).await, sorted[4..]);
    assert_eq!(listed(&store, "a", None).await, ["a/a", "a/b/c", "a/b/d"]);
    assert_eq!(listed(&store, "a/b/", Some("a/b/c")).await, ["a/b/d"]);
    assert_eq!(
        listed(&store, "a", Some("a-b")).await,
        ["a/a", "a/b/c", "a/b/d"]
    );
    assert_eq!(listed(&store, "a", Some("b/x")).await, [""; 0]);
    assert_eq!(listed(&store, "none", None).await, [""; 0]);
}

pub(crate) async fn lists_tell_size_and_age(store: Shared) {
    let before = SystemTime::now();
    store
        .put(&key("packs/0f/x"), bytes(1, 12_345), NOW)
        .await
        .unwrap();
    let page = store
        .list(&Prefix::new("packs").unwrap(), None, NOW)
        .await
        .unwrap();
    let [entry] = &page.entries[..] else {
        panic!("one object: {page:?}")
    };
    assert_eq!((entry.key.as_str(), entry.size), ("packs/0f/x", 12_345));
    // Servers tell whole seconds.
    let slack = Duration::from_secs(2);
    assert!(entry.modified >= before - slack, "{:?}", entry.modified);
    assert!(
        entry.modified <= SystemTime::now() + slack,
        "{:?}",
        entry.modified
    );
}

pub(crate) async fn lists_have_pages(store: Shared) {
    let total = LIST_PAGE_KEYS_MAX + 100;
    let name = |n: usize| key(&format!("packs/{:02x}/{n:05}", n % 7));
    let body = Bytes::from_static(b"x");
    for start in (0..total).step_by(32) {
        let puts = (start..total.min(start + 32)).map(|n| {
            let (store, body) = (Arc::clone(&store), body.clone());
            async move { store.put(&name(n), body, NOW).await }
        });
        for put in futures::future::join_all(puts).await {
            put.unwrap();
        }
    }
    let (mut all, mut after, prefix) = (Vec::new(), None, Prefix::new("packs").unwrap());
    loop {
        let page = store.list(&prefix, after.as_ref(), NOW).await.unwrap();
        assert!(page.entries.len() <= LIST_PAGE_KEYS_MAX);
        all.extend(page.entries.into_iter().map(|entry| entry.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected: Vec<_> = (0..total).map(name).collect();
    expected.sort();
    assert!(
        all == expected,
        "each key once, in order ({} of {total})",
        all.len()
    );
}

pub(crate) async fn long_keys_work(store: Shared) {
    let mut name = vec!["a".repeat(SEGMENT_BYTES_MAX); 3].join("/");
    name.truncate(KEY_BYTES_MAX);
    store.put(&key(&name), bytes(1, 10), NOW).await.unwrap();
    assert_eq!(read(&store, &name).await, bytes(1, 10));
    assert_eq!(listed(&store, "", None).await, [name]);
}

pub(crate) async fn packs_go_in_parallel(store: Shared) {
    const PACKS: u64 = 8;
    const LEN: usize = 16 << 20;
    let bodies: Vec<_> = (0..PACKS).map(|n| bytes(n, LEN)).collect();
    let name = |n: u64| key(&format!("packs/{n:02x}/pack"));
    let puts = (0..).zip(&bodies).map(|(n, body)| {
        let (store, body) = (Arc::clone(&store), body.clone());
        tokio::spawn(async move { store.put(&name(n), body, NOW).await })
    });
    for put in futures::future::join_all(puts).await {
        put.unwrap().unwrap();
    }
    let gets = (0..PACKS).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.get_range(&name(n), 1, LEN as u64 - 2, NOW).await })
    });
    for (body, got) in bodies.iter().zip(futures::future::join_all(gets).await) {
        assert!(got.unwrap().unwrap() == body.slice(1..LEN - 1));
    }
}

pub(crate) async fn describe_tells_where(store: Shared) {
    let text = store.describe();
    assert!(text.contains(':'), "{text}");
    assert!(!text.contains("secret"), "{text}");
}
