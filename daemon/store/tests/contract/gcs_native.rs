//! Google Cloud Storage's own interface, against a stand-in of its documented behaviour.

use std::sync::Arc;

use hyper::Method;
use lifeboat_store::{
    ErrorKind, Options, Prefix, Store,
    gcs::{Gcs, Settings},
};

use crate::{
    conformance::{self, NOW, Shared, bytes, fails_as, key, races},
    gcs_fake::{BUCKET, Fake, TOKEN},
    held_to, s3_answers,
};

fn settings(fake: &Fake) -> Settings {
    Settings {
        bucket: BUCKET.to_owned(),
        prefix: Prefix::new("some/prefix").expect("a valid prefix"),
        endpoint: Some(fake.endpoint.clone()),
        token: Some(TOKEN.to_owned()),
    }
}

async fn open() -> (Shared, Fake) {
    let fake = Fake::start().await;
    let store = Gcs::open(settings(&fake)).expect("the client is made");
    (Arc::new(store), fake)
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
async fn conditions_are_generations() {
    let (store, fake) = open().await;
    let name = key("head");
    let first = store.put_if_absent(&name, bytes(1, 10), NOW).await.unwrap();
    store
        .put_if_match(&name, bytes(2, 10), &first, NOW)
        .await
        .unwrap();
    store.put(&name, bytes(3, 10), NOW).await.unwrap();
    let sent = |condition: Option<&str>| (Method::PUT, condition.map(str::to_owned));
    assert_eq!(
        fake.seen(),
        [sent(Some("0")), sent(Some(first.as_str())), sent(None)]
    );
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let (_, fake) = open().await;
    let settings = settings(&fake);
    let other = Settings {
        bucket: "no-such-bucket".to_owned(),
        ..settings.clone()
    };
    let store = Gcs::open(other).unwrap();
    fails_as(store.get(&key("a"), 10, NOW).await, ErrorKind::NoBucket);
    fails_as(
        store.put(&key("a"), bytes(1, 10), NOW).await,
        ErrorKind::NoBucket,
    );
    fails_as(
        store.list(&Prefix::ROOT, None, NOW).await,
        ErrorKind::NoBucket,
    );
    let store = Gcs::open(Settings {
        token: Some("not-the-token".to_owned()),
        ..settings
    })
    .unwrap();
    let error = store.put(&key("a"), bytes(1, 10), NOW).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let text = format!("{error} {error:?} {store:?}");
    assert!(!text.contains("not-the-token"), "{text}");
    drop(fake);
}

#[tokio::test]
async fn without_a_connection_nothing_was_written() {
    let (store, fake) = open().await;
    drop(fake);
    s3_answers::unreachable(&*store).await;
}

#[tokio::test]
async fn open_takes_a_url() {
    let fake = Fake::start().await;
    let url = format!("gs://{BUCKET}/a/prefix?endpoint={}", fake.endpoint);
    let options = Options {
        gcs_token: Some(TOKEN.to_owned()),
        ..Options::default()
    };
    let store = lifeboat_store::open(&url, &options).await.unwrap();
    conformance::replace_needs_the_current_version(store).await;
}
