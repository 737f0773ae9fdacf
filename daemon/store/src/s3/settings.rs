//! Where the bucket is, and the client that follows from it.

use std::fmt;

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain, imds, provider_config::ProviderConfig,
};
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::Builder as HttpBuilder;

use crate::{
    Prefix,
    http_fault::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT},
};

/// Where and how.
#[derive(Clone)]
pub struct Settings {
    /// The bucket.
    pub bucket: String,
    /// Prefix of all keys in the bucket.
    pub prefix: Prefix,
    /// URL of a server that is not AWS.
    pub endpoint: Option<String>,
    /// Region; else the environment's, else `us-east-1` if there is an endpoint.
    pub region: Option<String>,
    /// Whether the bucket goes into the path and not the host name; else only with an endpoint.
    pub path_style: Option<bool>,
    /// Fixed credentials; else AWS's default chain.
    pub credentials: Option<AccessKey>,
}

/// Credentials of S3. Not shown by `Debug`.
#[derive(Clone)]
pub struct AccessKey {
    /// The key's id.
    pub id: String,
    /// The secret.
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(hidden)")
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The client.
    pub(super) async fn client(&self) -> Client {
        let custom = self.endpoint.is_some();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(1))
            .timeout_config(timeouts);
        if let Some(region) = self.region.clone().or_else(|| custom.then(default_region)) {
            loader = loader.region(Region::new(region));
        }
        loader = match self.credentials.clone() {
            Some(AccessKey { id, secret }) => {
                loader.credentials_provider(Credentials::new(id, secret, None, None, "settings"))
            }
            None => loader.credentials_provider(default_chain().await),
        };
        let checksums = if custom {
            RequestChecksumCalculation::WhenRequired
        } else {
            RequestChecksumCalculation::WhenSupported
        };
        let mut config = aws_sdk_s3::config::Builder::from(&loader.load().await)
            .request_checksum_calculation(checksums)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // Silence is bounded by us, and attempts as a whole by the retries around the store.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .force_path_style(self.path_style.unwrap_or(custom));
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Client::from_conf(config.build())
    }
}

/// What compatible servers expect who have no regions, unless the environment says otherwise.
fn default_region() -> String {
    let named = |name| std::env::var(name).ok().filter(|region| !region.is_empty());
    named("AWS_REGION")
        .or_else(|| named("AWS_DEFAULT_REGION"))
        .unwrap_or("us-east-1".to_owned())
}

/// AWS's chain, with a metadata client that knows no proxies.
async fn default_chain() -> DefaultCredentialsChain {
    let direct = ProviderConfig::default().with_http_client(HttpBuilder::new().build_http());
    let metadata = imds::Client::builder().configure(&direct).build();
    DefaultCredentialsChain::builder()
        .imds_client(metadata)
        .build()
        .await
}
