//! The contract against a real S3 server, which the environment names. There is no skipping:
//! without a server these tests fail.

#![expect(
    clippy::unwrap_used,
    reason = "the suite is tests, which clippy cannot see"
)]
#![expect(clippy::panic, reason = "as above")]
#![expect(clippy::unused_async, reason = "all points of the suite look alike")]

#[path = "contract/conformance/mod.rs"]
mod conformance;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use conformance::{Shared, races};
use lifeboat_store::{
    ErrorKind, Options, Prefix, Store,
    s3::{AccessKey, S3, Settings},
};

const BUCKET: &str = "lifeboat-contract";

fn from_environment(name: &str) -> String {
    let name = format!("LIFEBOAT_TEST_S3_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: this test needs a real S3 server. \
             Run `deploy/s3/ceph.sh up FOLDER` and export the lines that it prints"
        )
    })
}

fn settings() -> Settings {
    static STORES: AtomicU32 = AtomicU32::new(0);
    let number = STORES.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH
        .elapsed()
        .expect("the clock is past 1970");
    let run = format!("{}-{}-{number}", since.as_millis(), std::process::id());
    Settings {
        bucket: BUCKET.to_owned(),
        prefix: Prefix::new(run).expect("a valid prefix"),
        endpoint: Some(from_environment("ENDPOINT")),
        region: Some(from_environment("REGION")),
        path_style: None,
        credentials: Some(AccessKey {
            id: from_environment("ACCESS_KEY"),
            secret: from_environment("SECRET_KEY"),
        }),
    }
}

async fn open() -> (Shared, ()) {
    let settings = settings();
    let access = settings.credentials.clone().expect("set above");
    let config = aws_sdk_s3::config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(settings.region.clone().expect("set above")))
        .endpoint_url(settings.endpoint.clone().expect("set above"))
        .force_path_style(true)
        .credentials_provider(Credentials::new(
            access.id,
            access.secret,
            None,
            None,
            "test",
        ));
    let client = aws_sdk_s3::Client::from_conf(config.build());
    // Making a bucket that one has already succeeds.
    client
        .create_bucket()
        .bucket(BUCKET)
        .send()
        .await
        .expect("the server answers and obeys");
    (Arc::new(S3::open(settings).await), ())
}

held_to!(open:
    conformance::what_was_put_is_read,
    conformance::put_replaces,
    conformance::what_is_absent_is_not_found,
    conformance::a_folder_is_no_object,
    conformance::delete_deletes,
    conformance::get_is_bounded,
    conformance::ranges_are_exact,
    conformance::create_is_refused_where_something_is,
    conformance::replace_needs_the_current_version,
    conformance::replace_of_nothing_is_a_conflict,
    conformance::replace_with_a_foreign_version_is_a_conflict,
    conformance::lists_are_in_byte_order,
    conformance::lists_tell_size_and_age,
    conformance::lists_have_pages,
    conformance::long_keys_work,
    conformance::packs_go_in_parallel,
    conformance::describe_tells_where,
    races::one_creator_wins,
    races::one_replacer_wins,
    races::nothing_deleted_comes_back,
);

#[tokio::test]
async fn a_missing_bucket_is_told_apart_from_a_missing_object() {
    let store = S3::open(Settings {
        bucket: "lifeboat-no-such-bucket".to_owned(),
        ..settings()
    });
    let store: Shared = Arc::new(store.await);
    let name = conformance::key("a/b");
    let read = store.get(&name, 10, conformance::NOW).await;
    conformance::fails_as(read, ErrorKind::NoBucket);
    let written = store
        .put(&name, conformance::bytes(1, 10), conformance::NOW)
        .await;
    conformance::fails_as(written, ErrorKind::NoBucket);
    let listed = store.list(&Prefix::ROOT, None, conformance::NOW).await;
    conformance::fails_as(listed, ErrorKind::NoBucket);
}

#[tokio::test]
async fn wrong_keys_are_denied_and_not_shown() {
    let mut settings = settings();
    let secret = "not-the-secret-at-all".to_owned();
    settings.credentials = Some(AccessKey {
        id: from_environment("ACCESS_KEY"),
        secret,
    });
    let store = S3::open(settings).await;
    let store: Shared = Arc::new(store);
    let error = store
        .get(&conformance::key("a"), 10, conformance::NOW)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let text = format!("{error} {error:?} {store:?}");
    assert!(text.contains("the secret key is wrong"), "{text}");
    for hidden in ["not-the-secret-at-all", &from_environment("ACCESS_KEY")] {
        assert!(!text.contains(hidden), "{hidden:?} is shown in {text}");
    }
}

#[tokio::test]
async fn open_takes_the_servers_url() {
    let (_, ()) = open().await;
    let Settings {
        endpoint,
        region,
        prefix,
        credentials,
        ..
    } = settings();
    let url = format!(
        "s3://{BUCKET}/{prefix}?endpoint={}&region={}",
        endpoint.expect("set"),
        region.expect("set")
    );
    let options = Options {
        s3_credentials: credentials,
        ..Options::default()
    };
    let store = lifeboat_store::open(&url, &options).await.unwrap();
    conformance::what_was_put_is_read(store).await;
}

#[tokio::test]
async fn the_server_passes_the_probe() {
    let (store, ()) = open().await;
    let report = lifeboat_store::probe::probe(&*store, conformance::NOW)
        .await
        .unwrap();
    assert_eq!(report.shortcomings, []);
    assert!(report.is_shareable());
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_at_once() {
    let endpoint = Some(from_environment("TLS_ENDPOINT"));
    let store = S3::open(Settings {
        endpoint,
        ..settings()
    })
    .await;
    let store = lifeboat_store::retry::Retrying::new(Arc::new(store));
    let began = std::time::Instant::now();
    let name = conformance::key("a");
    let error = store
        .put_if_absent(&name, conformance::bytes(1, 10), conformance::NOW)
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
