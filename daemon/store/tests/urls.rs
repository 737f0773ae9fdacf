//! Stores are opened by URL; what is wrong with one is said with what to write instead.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy cannot see"
)]

use std::error::Error;

use bytes::Bytes;
use lifeboat_store::{Call, ErrorKind, Key, Options, Prefix, open};
use proptest::prelude::{any, prop_assert, proptest};

async fn refusal(url: &str) -> String {
    let error = open(url, &Options::default()).await.unwrap_err();
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {cause}")
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_write() {
    for (url, words) in [
        ("", "s3://BUCKET/PREFIX"),
        ("/var/lib/x", "file:///FOLDER"),
        ("https://bucket.s3.amazonaws.com/", "s3://BUCKET/PREFIX"),
        ("s3:///prefix", "the bucket is missing"),
        ("s3://bucket/../up?x=1", "endpoint, region and path_style"),
        ("s3://bucket/a//b", "segment"),
        ("s3://bucket?endpoint=nonsense", "endpoint=http://HOST:PORT"),
        (
            "s3://bucket?endpoint=ftp://host",
            "endpoint=http://HOST:PORT",
        ),
        (
            "s3://bucket?endpoint=http://host/path",
            "endpoint=http://HOST:PORT",
        ),
        ("s3://bucket?path_style=maybe", "path_style=true"),
        ("gs://bucket?region=x", "gs knows endpoint"),
        ("gs://", "missing"),
        ("file://relative/path", "three slashes"),
        ("file:///", "the folder is missing"),
        ("file:///tmp/x?y=1", "has none"),
        ("file:///proc/self/cannot/be", "/proc/self/cannot/be"),
        ("memory:x?y=1", "has none"),
        ("faulty+memory:x?plan=put.lose", "LIFEBOAT_ALLOW_FAULTS=1"),
    ] {
        let refusal = refusal(url).await;
        assert!(refusal.contains(words), "{url:?}: {refusal}");
    }
}

#[tokio::test]
async fn secrets_in_a_url_are_refused_and_not_repeated() {
    for url in [
        "s3://AKIAKEY:hunter2@bucket/prefix",
        "s3://hunter2@bucket",
        "https://user:hunter2@host/",
        "s3://bucket?endpoint=http://user:hunter2@host",
        "gs://hunter2@bucket",
    ] {
        let refusal = refusal(url).await;
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
}

#[tokio::test]
async fn describe_is_a_url_that_opens_the_same_store() {
    let dir = tempfile::tempdir().unwrap();
    let folder = format!("file://{}/made/as/needed", dir.path().display());
    for url in [folder.as_str(), "memory:described"] {
        let store = open(url, &Options::default()).await.unwrap();
        let name = Key::new("a/b").unwrap();
        store
            .put(&name, Bytes::from_static(b"x"), Call::default())
            .await
            .unwrap();
        let again = open(&store.describe(), &Options::default()).await.unwrap();
        assert_eq!(
            again.get(&name, 9, Call::default()).await.unwrap().bytes,
            "x"
        );
    }
    for url in [
        "s3://bucket/a/b/?endpoint=http://127.0.0.1:9",
        "gs://bucket/?endpoint=http://x",
    ] {
        let store = open(url, &Options::default()).await.unwrap();
        assert_eq!(store.describe(), url);
    }
}

#[tokio::test]
async fn a_folder_that_is_made_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/store", dir.path().display());
    let store = open(&url, &Options::default()).await.unwrap();
    let name = Key::new("packs/00/x").unwrap();
    store
        .put(&name, Bytes::from_static(b"x"), Call::default())
        .await
        .unwrap();
    for (path, expected) in [
        ("store", 0o700),
        ("store/packs", 0o700),
        ("store/packs/00/x", 0o600),
    ] {
        let mode = std::fs::metadata(dir.path().join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, expected, "{path}");
    }
}

#[tokio::test]
async fn a_plan_of_faults_works_by_url() {
    let options = Options {
        allow_faults: true,
        ..Options::default()
    };
    let store = open("faulty+memory:planned?plan=get.fail:denied@2", &options)
        .await
        .unwrap();
    assert_eq!(store.describe(), "faulty+memory:planned");
    let name = Key::new("a").unwrap();
    store
        .put(&name, Bytes::from_static(b"x"), Call::default())
        .await
        .unwrap();
    store.get(&name, 9, Call::default()).await.unwrap();
    let error = store.get(&name, 9, Call::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    // Parameters of the store itself stay.
    let url = "faulty+s3://bucket?plan=put.lose&endpoint=http://host:1&region=r";
    let store = open(url, &options).await.unwrap();
    assert_eq!(
        store.describe(),
        "faulty+s3://bucket/?endpoint=http://host:1"
    );
    let error = open("faulty+memory:x?plan=oops", &options)
        .await
        .unwrap_err();
    assert!(
        error.source().unwrap().to_string().contains("oops"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn whatever_is_a_key_stays_below_its_folder(text in any::<String>()) {
        if let Ok(key) = Key::new(&text) {
            let path = std::path::Path::new("/root").join(key.as_str());
            prop_assert!(path.starts_with("/root"));
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(std::path::Path::new(key.as_str()).components().all(plain));
            prop_assert!(!key.as_str().ends_with('/') && key.is_under(&Prefix::ROOT));
        }
    }

    #[test]
    fn key_like_text_is_judged_without_panic(text in "[a-z./_=-]{0,40}") {
        let key = Key::new(&text);
        let bad = text.split('/').any(|segment| segment.is_empty() || segment.starts_with('.'));
        prop_assert!(key.is_ok() != bad);
    }

    #[test]
    fn no_url_and_no_plan_makes_open_panic(text in "(s3|gs|file|memory|faulty\\+memory)?:?/{0,3}[ -~]{0,30}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Folders are real: only kinds that touch nothing.
        if !text.starts_with("file") {
            let options = Options { allow_faults: true, ..Options::default() };
            drop(runtime.block_on(open(&text, &options)));
        }
    }
}
