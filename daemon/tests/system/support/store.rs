//! Stores for tests: a folder, or a bucket of the real S3 server.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::Proxy;

/// Bucket of these tests.
const BUCKET: &str = "lifeboat-system";

/// Where checkpoints of one test go.
#[derive(Debug)]
pub(crate) struct TestStore {
    url: String,
    environment: Vec<(String, String)>,
    folder: Option<tempfile::TempDir>,
}

impl TestStore {
    /// A folder.
    pub(crate) fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        Self {
            url,
            environment: Vec::new(),
            folder: Some(folder),
        }
    }

    /// A prefix of its own in the test bucket of the real S3 server.
    pub(crate) fn s3() -> Self {
        let server = Server::from_environment();
        server.make_bucket();
        server.store(BUCKET, &server.endpoint)
    }

    /// The same behind a door that can be shut.
    pub(crate) fn s3_behind_a_door() -> (Self, Proxy) {
        let server = Server::from_environment();
        server.make_bucket();
        let proxy = Proxy::to(server.address());
        (
            server.store(BUCKET, &format!("http://{}", proxy.address())),
            proxy,
        )
    }

    /// This store of the real server, with another secret key.
    pub(crate) fn with_wrong_key(&self) -> (String, Vec<(String, String)>) {
        let mut environment = self.environment.clone();
        environment.retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
        environment.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "not-the-key".to_owned()));
        (self.url.clone(), environment)
    }

    /// This store of the real server, in a bucket that is not there.
    pub(crate) fn without_bucket(&self) -> (String, Vec<(String, String)>) {
        let url = self.url.replace(BUCKET, "lifeboat-system-missing");
        (url, self.environment.clone())
    }

    /// An existing folder.
    pub(crate) fn at(folder: tempfile::TempDir) -> Self {
        let url = format!("file://{}", folder.path().display());
        Self {
            url,
            environment: Vec::new(),
            folder: Some(folder),
        }
    }

    /// Deletes all that is in it, where many tests would fill the server's disk.
    pub(crate) fn clear(&self) {
        let server = Server::from_environment();
        let (id, secret) = server.keys();
        let options = lifeboat_store::Options {
            s3_credentials: Some(lifeboat_store::s3::AccessKey {
                id: id.to_owned(),
                secret: secret.to_owned(),
            }),
            ..lifeboat_store::Options::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = lifeboat_store::open(&self.url, &options).await.unwrap();
            loop {
                let all = lifeboat_store::Prefix::default();
                let call = lifeboat_store::Call::default;
                let page = store.list(&all, None, call()).await.unwrap();
                if page.entries.is_empty() {
                    return;
                }
                for entry in page.entries {
                    store.delete(&entry.key, call()).await.unwrap();
                }
            }
        });
    }

    /// The same store as it is reached by another door.
    pub(crate) fn by(&self, door: &str, other: &str) -> Self {
        Self {
            url: self.url.replace(door, other),
            environment: self.environment.clone(),
            folder: None,
        }
    }

    /// The same store behind the plan of faults `plan` (see `lifeboat_store::faulty`).
    pub(crate) fn with_faults(&self, plan: &str) -> (String, Vec<(String, String)>) {
        let joint = if self.url.contains('?') { '&' } else { '?' };
        let mut environment = self.environment.clone();
        environment.push(("LIFEBOAT_ALLOW_FAULTS".to_owned(), "1".to_owned()));
        (
            format!("faulty+{}{joint}plan={plan}", self.url),
            environment,
        )
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The folder of a store that is one.
    pub(crate) fn path(&self) -> &Path {
        self.folder
            .as_ref()
            .expect("only folders have a path")
            .path()
    }

    /// All files of a folder store below `prefix`, sorted.
    pub(crate) fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path().join(prefix)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else {
                continue;
            };
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path)
                } else {
                    found.push(path)
                }
            }
        }
        found.sort();
        found
    }
}

/// The real S3 server.
pub(crate) struct Server {
    endpoint: String,
    region: String,
    access_key: String,
    secret_key: String,
}

impl Server {
    pub(crate) fn from_environment() -> Self {
        let variable = |name: &str| {
            let name = format!("LIFEBOAT_TEST_S3_{name}");
            std::env::var(&name).unwrap_or_else(|_| {
                panic!(
                    "{name} is not set: run the tests by deploy/test.sh, which starts the server"
                )
            })
        };
        Self {
            endpoint: variable("ENDPOINT"),
            region: variable("REGION"),
            access_key: variable("ACCESS_KEY"),
            secret_key: variable("SECRET_KEY"),
        }
    }

    /// HOST:PORT.
    pub(crate) fn address(&self) -> &str {
        self.endpoint
            .trim_start_matches("http://")
            .trim_end_matches('/')
    }

    /// Access key and secret key.
    pub(crate) fn keys(&self) -> (&str, &str) {
        (&self.access_key, &self.secret_key)
    }

    /// A prefix of its own in the test bucket, as it is reached by `door` (HOST:PORT).
    pub(crate) fn behind(&self, door: &str) -> TestStore {
        self.make_bucket();
        self.store(BUCKET, &format!("http://{door}"))
    }

    fn store(&self, bucket: &str, endpoint: &str) -> TestStore {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("system-{}-{number}", std::process::id());
        let region = &self.region;
        let url = format!("s3://{bucket}/{prefix}?endpoint={endpoint}&region={region}");
        let environment = vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.secret_key.clone()),
        ];
        TestStore {
            url,
            environment,
            folder: None,
        }
    }

    /// Makes the test bucket unless it is there.
    fn make_bucket(&self) {
        use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
        let (key, secret) = (&*self.access_key, &*self.secret_key);
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new(self.region.clone()))
            .credentials_provider(Credentials::new(key, secret, None, None, "test"))
            .force_path_style(true)
            .build();
        let client = aws_sdk_s3::Client::from_conf(config);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let made = runtime.block_on(client.create_bucket().bucket(BUCKET).send());
        if let Err(error) = made {
            let error = error.into_service_error();
            let there = error.is_bucket_already_owned_by_you() || error.is_bucket_already_exists();
            assert!(
                there,
                "make the test bucket at {}: {error:?}",
                self.endpoint
            );
        }
    }
}
