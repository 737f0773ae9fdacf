//! Which cloud this machine is in.
//!
//! The firmware tables (DMI) of each cloud's machines say it, and reading them asks nobody anything.
//! Where there are none (some containers and architectures), and where a metadata server of its own is
//! configured, each cloud's server is asked something harmless that only it answers.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::{client::Client, config::WatchConfig};

/// Where the kernel shows the tables.
const DMI: &str = "/sys/class/dmi/id";

/// Azure's chassis has the same asset tag everywhere.
const AZURE_ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";

/// Longest time for an answer. The server is one hop away, or there is none.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// A cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cloud {
    /// Google Compute Engine.
    Gce,
    /// EC2.
    Aws,
    /// Azure.
    Azure,
}

impl Cloud {
    /// All that are known.
    pub const ALL: [Self; 3] = [Self::Gce, Self::Aws, Self::Azure];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gce => "gce",
            Self::Aws => "aws",
            Self::Azure => "azure",
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cloud {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|cloud| cloud.name() == word)
            .ok_or_else(|| {
                format!(
                    "{word:?} is not a cloud that is known: write auto, none, gce, aws or azure"
                )
            })
    }
}

/// What the firmware says: `None`: there are no tables; `Some(None)`: no cloud that is known.
pub(crate) fn by_firmware() -> Option<Option<Cloud>> {
    by_tables(Path::new(DMI))
}

fn by_tables(folder: &Path) -> Option<Option<Cloud>> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    if !folder.exists() {
        return None;
    }
    let product = read("product_name");
    Some(if product.trim() == "Google Compute Engine" {
        Some(Cloud::Gce)
    } else if read("sys_vendor").trim() == "Amazon EC2"
        || read("bios_vendor").trim() == "Amazon EC2"
    {
        Some(Cloud::Aws)
    } else if read("chassis_asset_tag").trim() == AZURE_ASSET_TAG {
        Some(Cloud::Azure)
    } else {
        None
    })
}

/// Those whose metadata server answers.
pub(crate) async fn by_asking(config: &WatchConfig) -> Vec<Cloud> {
    let ask = |cloud: Cloud| async move {
        let client = Client::new(config.endpoint(cloud)).ok()?;
        answers(cloud, &client).await.then_some(cloud)
    };
    let (gce, aws, azure) = tokio::join!(ask(Cloud::Gce), ask(Cloud::Aws), ask(Cloud::Azure));
    [gce, aws, azure].into_iter().flatten().collect()
}

async fn answers(cloud: Cloud, client: &Client) -> bool {
    let get = |path: &'static str, headers| client.get(path, headers, PROBE_LIMIT);
    match cloud {
        Cloud::Gce => {
            let headers = &[("Metadata-Flavor", "Google")];
            let answer = get("/computeMetadata/v1/instance/preempted", headers).await;
            answer.is_ok_and(|answer| answer.header("metadata-flavor") == Some("Google"))
        }
        Cloud::Aws => {
            let headers = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
            let (method, path) = (Method::PUT, "/latest/api/token");
            let answer = client.send(method, path, &headers, String::new(), PROBE_LIMIT);
            let answer = answer.await;
            // A server that knows no tokens says 404 or 405.
            answer.is_ok_and(|answer| answer.status == StatusCode::OK)
        }
        Cloud::Azure => {
            let path = "/metadata/versions";
            let answer = get(path, &[("Metadata", "true")]).await;
            answer.is_ok_and(|answer| {
                answer.status == StatusCode::OK && answer.body.contains("apiVersions")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_tables_tell_the_cloud() {
        let folder = tempfile::tempdir().unwrap();
        let tables = |name: &str, text: &str| {
            let folder = folder.path().join(text.replace(' ', "-"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), format!("{text}\n")).unwrap();
            by_tables(&folder)
        };
        let gce = tables("product_name", "Google Compute Engine");
        assert_eq!(gce, Some(Some(Cloud::Gce)));
        assert_eq!(tables("sys_vendor", "Amazon EC2"), Some(Some(Cloud::Aws)));
        let azure = tables("chassis_asset_tag", AZURE_ASSET_TAG);
        assert_eq!(azure, Some(Some(Cloud::Azure)));
        assert_eq!(tables("sys_vendor", "LENOVO"), Some(None));
        assert_eq!(by_tables(&folder.path().join("none")), None);
    }
}
