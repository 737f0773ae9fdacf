//! Stores for tests: a folder, or a bucket of the real S3 server.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

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
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let variable = |name: &str| {
            let name = format!("LIFEBOAT_TEST_S3_{name}");
            std::env::var(&name).unwrap_or_else(|_| {
                panic!(
                    "{name} is not set: run the tests by deploy/test.sh, which starts the server"
                )
            })
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (endpoint, region) = (variable("ENDPOINT"), variable("REGION"));
        make_bucket(
            &endpoint,
            &region,
            &variable("ACCESS_KEY"),
            &variable("SECRET_KEY"),
        );
        let prefix = format!("system-{}-{number}", std::process::id());
        let url = format!("s3://{BUCKET}/{prefix}?endpoint={endpoint}&region={region}");
        let environment = vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), variable("ACCESS_KEY")),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), variable("SECRET_KEY")),
        ];
        Self {
            url,
            environment,
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

/// Makes the bucket unless it is there.
fn make_bucket(endpoint: &str, region: &str, access_key: &str, secret_key: &str) {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
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
        assert!(there, "make the test bucket at {endpoint}: {error:?}");
    }
}
