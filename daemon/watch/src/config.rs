//! The `[watch]` section of the configuration: every key has a default.
//!
//! ```toml
//! [watch]
//! cloud = "auto"              # or "none", or one or several of "gce", "aws", "azure"
//! [watch.gce]
//! endpoint = "http://169.254.169.254"
//! notice = "25s"              # "115s" with --preemption-notice-duration=120s
//! [watch.azure]
//! approve = true              # have the event happen as soon as everything is saved
//! ```

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{client::Client, detect::Cloud};

/// Where all three clouds have their metadata server.
const ENDPOINT: &str = "http://169.254.169.254";

/// Shortest time between two questions.
const POLL_MIN: Duration = Duration::from_millis(50);

/// Longest time between two questions: later, a notice of 30 s is hardly worth hearing.
const POLL_MAX: Duration = Duration::from_secs(10);

/// Which clouds are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum CloudChoice {
    /// The one that this machine is in, if any.
    #[default]
    Auto,
    /// These.
    These(Vec<Cloud>),
}

/// A choice as written: a word, or a list of words.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    One(String),
    Several(Vec<String>),
}

impl TryFrom<Written> for CloudChoice {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let words = match written {
            Written::One(word) if word == "auto" => return Ok(Self::Auto),
            Written::One(word) if word == "none" => Vec::new(),
            Written::One(word) => vec![word],
            Written::Several(words) => words,
        };
        let clouds: Result<Vec<Cloud>, String> =
            words.iter().map(|word| Cloud::from_str(word)).collect();
        Ok(Self::These(clouds?))
    }
}

impl From<CloudChoice> for Written {
    fn from(choice: CloudChoice) -> Self {
        match choice {
            CloudChoice::Auto => Self::One("auto".to_owned()),
            CloudChoice::These(clouds) if clouds.is_empty() => Self::One("none".to_owned()),
            CloudChoice::These(clouds) => {
                Self::Several(clouds.iter().map(|cloud| cloud.name().to_owned()).collect())
            }
        }
    }
}

/// The section.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchConfig {
    /// Which clouds.
    pub cloud: CloudChoice,
    /// Google Compute Engine.
    pub gce: GceConfig,
    /// EC2.
    pub aws: AwsConfig,
    /// Azure.
    pub azure: AzureConfig,
    /// Kubernetes.
    pub kubernetes: KubernetesConfig,
    /// systemd-logind.
    pub logind: LogindConfig,
}

/// Google Compute Engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GceConfig {
    /// Address of the metadata server.
    pub endpoint: String,
    /// How long the machine stays when `preempted` has changed.
    #[serde(with = "humantime_serde")]
    pub notice: Duration,
    /// How long it stays when `maintenance-event` says that it will be stopped.
    #[serde(with = "humantime_serde")]
    pub maintenance_notice: Duration,
}

/// EC2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AwsConfig {
    /// Address of the metadata service.
    pub endpoint: String,
    /// Time between questions.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// Azure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzureConfig {
    /// Address of the metadata service.
    pub endpoint: String,
    /// Time between questions.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// The name by which events call this machine; asked for when not given.
    pub vm: Option<String>,
    /// How long the machine stays when an event does not say.
    #[serde(with = "humantime_serde")]
    pub notice: Duration,
    /// Whether an event is approved when everything is saved. It then happens at once, for everything
    /// on the machine: what is not a workload loses the rest of the time that it was promised, and the
    /// event cannot be cancelled any more. So it is only done for who asks for it.
    pub approve: bool,
}

/// Kubernetes; in builds with the feature `kubernetes`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Name of the own node; without it, `NODE_NAME`. Nothing is watched when neither is there.
    pub node: Option<String>,
    /// Address of the API server; without it, what Kubernetes tells each container.
    pub endpoint: Option<String>,
    /// Folder with `token` and `ca.crt`; without it, where Kubernetes mounts them.
    pub credentials: Option<std::path::PathBuf>,
}

/// systemd-logind; in builds with the feature `logind`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogindConfig {
    /// Whether a shutdown of this machine is delayed until everything is saved.
    pub enabled: bool,
    /// Address of the bus; without it, the system's.
    pub bus: Option<String>,
}

impl Default for GceConfig {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            notice: Duration::from_secs(25),
            maintenance_notice: Duration::from_secs(55),
        }
    }
}

impl Default for AwsConfig {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            poll: Duration::from_secs(1),
        }
    }
}

impl Default for AzureConfig {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            poll: Duration::from_secs(1),
            vm: None,
            notice: Duration::from_secs(25),
            approve: false,
        }
    }
}

impl Default for LogindConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            bus: None,
        }
    }
}

impl WatchConfig {
    /// Uses `endpoint` as the metadata server of every cloud.
    pub fn set_endpoint(&mut self, endpoint: &str) {
        endpoint.clone_into(&mut self.gce.endpoint);
        endpoint.clone_into(&mut self.aws.endpoint);
        endpoint.clone_into(&mut self.azure.endpoint);
    }

    /// Whether a metadata server other than the clouds' own is configured.
    #[must_use]
    pub fn has_own_endpoint(&self) -> bool {
        [Cloud::Gce, Cloud::Aws, Cloud::Azure]
            .iter()
            .any(|cloud| self.endpoint(*cloud) != ENDPOINT)
    }

    /// The metadata server of a cloud.
    #[must_use]
    pub fn endpoint(&self, cloud: Cloud) -> &str {
        match cloud {
            Cloud::Gce => &self.gce.endpoint,
            Cloud::Aws => &self.aws.endpoint,
            Cloud::Azure => &self.azure.endpoint,
        }
    }

    /// What is wrong with the section, if anything: the key, its value, and what to do.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String, String)> {
        let endpoints = [
            ("watch.gce.endpoint", &self.gce.endpoint),
            ("watch.aws.endpoint", &self.aws.endpoint),
            ("watch.azure.endpoint", &self.azure.endpoint),
        ];
        for (key, endpoint) in endpoints {
            if let Err(error) = Client::new(endpoint) {
                return Some((key, endpoint.clone(), error.to_string()));
            }
        }
        let polls = [
            ("watch.aws.poll", self.aws.poll),
            ("watch.azure.poll", self.azure.poll),
        ];
        for (key, poll) in polls {
            if !(POLL_MIN..=POLL_MAX).contains(&poll) {
                let reason = format!("use {POLL_MIN:?} to {POLL_MAX:?}, for example '1s'");
                return Some((key, format!("{poll:?}"), reason));
            }
        }
        let notices = [
            ("watch.gce.notice", self.gce.notice),
            ("watch.gce.maintenance_notice", self.gce.maintenance_notice),
            ("watch.azure.notice", self.azure.notice),
        ];
        for (key, notice) in notices {
            if notice < Duration::from_secs(1) {
                let reason = "in less than 1s nothing can be saved; write for example '25s'";
                return Some((key, format!("{notice:?}"), reason.to_owned()));
            }
        }
        #[cfg(not(feature = "kubernetes"))]
        if let Some(node) = &self.kubernetes.node {
            let reason =
                "this program was built without Kubernetes; build it with --features kubernetes";
            return Some(("watch.kubernetes.node", node.clone(), reason.to_owned()));
        }
        None
    }
}
