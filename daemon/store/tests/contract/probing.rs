//! The probe tells good stores from careless ones.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_store::{
    Call, ErrorKind, Key, Meta, Object, Operation, Page, Prefix, Result, Store, StoreError,
    Version,
    faulty::Faulty,
    memory::Memory,
    probe::{Shortcoming, probe},
};

use crate::{
    conformance::NOW,
    gcs_fake::{BUCKET, Fake, TOKEN},
};

/// What a [`Careless`] store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    IgnoresAbsence,
    IgnoresMatch,
    RefusesConditions,
    RefusesEverything,
    ShiftsRanges,
    ListsNothing,
    KeepsDeleted,
    RefusesButWrites,
}

/// A store that does one thing wrong.
#[derive(Debug)]
struct Careless {
    inner: Memory,
    flaw: Flaw,
}

impl Careless {
    async fn overwrite(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        self.inner.put(key, body, call).await?;
        Ok(self.inner.head(key, call).await?.version)
    }
}

#[async_trait]
impl Store for Careless {
    async fn put(&self, key: &Key, body: Bytes, call: Call) -> Result<()> {
        self.inner.put(key, body, call).await
    }

    async fn put_if_absent(&self, key: &Key, body: Bytes, call: Call) -> Result<Version> {
        let error = |kind| StoreError::new(kind, Operation::PutIfAbsent, key, "careless");
        match self.flaw {
            Flaw::IgnoresAbsence => self.overwrite(key, body, call).await,
            Flaw::RefusesConditions => Err(error(ErrorKind::Unsupported)),
            Flaw::RefusesButWrites if self.inner.head(key, call).await.is_ok() => {
                self.overwrite(key, body, call).await?;
                Err(error(ErrorKind::AlreadyExists))
            }
            _ => self.inner.put_if_absent(key, body, call).await,
        }
    }

    async fn put_if_match(
        &self,
        key: &Key,
        body: Bytes,
        v: &Version,
        call: Call,
    ) -> Result<Version> {
        match self.flaw {
            Flaw::IgnoresMatch => self.overwrite(key, body, call).await,
            Flaw::RefusesEverything => {
                let (kind, operation) = (ErrorKind::Conflict, Operation::PutIfMatch);
                Err(StoreError::new(kind, operation, key, "careless"))
            }
            _ => self.inner.put_if_match(key, body, v, call).await,
        }
    }

    async fn get(&self, key: &Key, max_bytes: u64, call: Call) -> Result<Object> {
        self.inner.get(key, max_bytes, call).await
    }

    async fn get_range(&self, key: &Key, offset: u64, len: u64, call: Call) -> Result<Bytes> {
        let shift = u64::from(self.flaw == Flaw::ShiftsRanges);
        self.inner.get_range(key, offset + shift, len, call).await
    }

    async fn head(&self, key: &Key, call: Call) -> Result<Meta> {
        self.inner.head(key, call).await
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, call: Call) -> Result<Page> {
        match self.flaw {
            Flaw::ListsNothing => Ok(Page::default()),
            _ => self.inner.list(prefix, after, call).await,
        }
    }

    async fn delete(&self, key: &Key, call: Call) -> Result<()> {
        match self.flaw {
            Flaw::KeepsDeleted => Ok(()),
            _ => self.inner.delete(key, call).await,
        }
    }

    fn describe(&self) -> String {
        "careless:".to_owned()
    }
}

#[tokio::test]
async fn each_flaw_is_found_and_told_with_a_remedy() {
    use Shortcoming::{
        CreatesOverExisting, KeepsDeleted, ListsLate, NoConditions, ReplacesChanged, WrongRanges,
    };
    let cases = [
        (Flaw::None, None, true),
        (Flaw::IgnoresAbsence, Some(CreatesOverExisting), false),
        (Flaw::RefusesButWrites, Some(CreatesOverExisting), false),
        (Flaw::IgnoresMatch, Some(ReplacesChanged), false),
        (Flaw::RefusesConditions, Some(NoConditions), false),
        (Flaw::RefusesEverything, Some(NoConditions), false),
        (Flaw::ShiftsRanges, Some(WrongRanges), false),
        (Flaw::ListsNothing, Some(ListsLate), true),
        (Flaw::KeepsDeleted, Some(KeepsDeleted), true),
    ];
    for (flaw, expected, shareable) in cases {
        let inner = Memory::new();
        let report = probe(
            &Careless {
                inner: inner.clone(),
                flaw,
            },
            NOW,
        )
        .await
        .unwrap();
        assert_eq!(report.shortcomings, Vec::from_iter(expected), "{flaw:?}");
        assert_eq!(report.is_shareable(), shareable, "{flaw:?}");
        for shortcoming in report.shortcomings {
            assert!(shortcoming.to_string().contains("; "), "{shortcoming}");
        }
        if flaw != Flaw::KeepsDeleted {
            let left = inner.list(&Prefix::ROOT, None, NOW).await.unwrap();
            // What a store wrote that was to be refused cannot be known, but is deleted as well.
            assert_eq!(left.entries, [], "{flaw:?}");
        }
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_an_error() {
    for (plan, kind) in [
        ("any.fail:denied", ErrorKind::Denied),
        ("put.fail:full", ErrorKind::Full),
        ("create.fail:nobucket", ErrorKind::NoBucket),
        ("range.fail:denied", ErrorKind::Denied),
        ("delete.fail:denied", ErrorKind::Denied),
    ] {
        let store = Faulty::new(std::sync::Arc::new(Memory::new()), plan.parse().unwrap());
        let error = probe(&store, NOW).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{plan}: {error}");
    }
}

#[tokio::test]
async fn google_by_its_own_interface_is_shareable() {
    let fake = Fake::start().await;
    let store = lifeboat_store::gcs::Gcs::open(lifeboat_store::gcs::Settings {
        bucket: BUCKET.to_owned(),
        prefix: Prefix::ROOT,
        endpoint: Some(fake.endpoint.clone()),
        token: Some(TOKEN.to_owned()),
    });
    let report = probe(&store.unwrap(), NOW).await.unwrap();
    assert!(
        report.is_shareable() && report.shortcomings.is_empty(),
        "{report:?}"
    );
}
