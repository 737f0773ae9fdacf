//! What the daemon was told to do, validated.
//!
//! Three layers: a TOML file, `LIFEBOAT_*` variables, flags; later ones win. Unknown keys of the file
//! are refused, so that a misspelt setting cannot be silently ignored.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use lifeboat_watch::WatchConfig;
use serde::{Deserialize, Serialize};

use crate::{cli::Settings, drill::DrillConfig, precopy::Limits};

/// Where the configuration file is looked for when none is named.
const DEFAULT_CONFIG_FILE: &str = "/etc/lifeboat/lifeboatd.toml";

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration file {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("setting {name}: {value:?} cannot be used: {reason}")]
    Value {
        /// Name of the setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        reason: String,
    },
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Where checkpoints go.
    pub store: String,
    /// Socket to listen on.
    pub socket: PathBuf,
    /// Group that may use the socket.
    pub socket_group: Option<String>,
    /// Directory for journals and logs.
    pub state_dir: PathBuf,
    /// Name of this node.
    pub node: String,
    /// Who is asked whether this machine will go.
    pub watch: WatchConfig,
    /// Address for metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// Additional gRPC address.
    pub listen: Option<SocketAddr>,
    /// TLS for the additional address.
    pub tls: Option<Tls>,
    /// Folder of the CRIU bundle.
    pub criu_bundle: PathBuf,
    /// The daemon's own program, by the path that it was started from: after an upgrade another file
    /// is there, while the running one has no path any more.
    #[serde(skip)]
    pub program: PathBuf,
    /// Folder of the programs that go with the daemon.
    pub libexec: PathBuf,
    /// File with the key of the store.
    pub key_file: Option<PathBuf>,
    /// Log filter.
    pub log: String,
    /// Log lines as JSON.
    pub log_json: bool,
    /// How the memory of workloads is saved.
    pub save: Save,
    /// What is kept near for restores to come.
    pub warm: Warm,
    /// How workloads are restored.
    pub restore: Restore,
    /// What copying memory ahead of time may cost.
    pub precopy: Limits,
    /// When an eviction is rehearsed.
    pub drill: DrillConfig,
    /// How long an owner may stay silent before another node may take its workload over.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How long a workload whose memory is not loaded completely waits for a daemon that has died;
    /// zero: it is ended at once.
    #[serde(with = "humantime_serde")]
    pub takeover_wait: Duration,
    /// Longest time for reading one object other than a pack.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// How long this machine stays after a notice that does not say.
    #[serde(with = "humantime_serde")]
    pub notice: Duration,
}

/// Files of a TLS identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain (PEM).
    pub certificate: PathBuf,
    /// Private key (PEM).
    pub key: PathBuf,
    /// Authorities whose client certificates are accepted (PEM).
    pub client_authority: PathBuf,
}

/// How the memory of workloads is saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Save {
    /// Threads that read and compress.
    pub threads: usize,
    /// Packs in flight to the store at once.
    pub uploads: usize,
    /// Most bytes of memory that were read of frozen workloads and are not yet compressed, of all
    /// saves together: a program that runs on after its checkpoint stands still only until its changed
    /// memory is in here.
    pub buffer_bytes: u64,
    /// Compression: `auto`, or the same for all memory: `raw`, `fast`, `balanced` or `small`.
    pub effort: Effort,
    /// Whether an evacuation is read back from the store and compared with the frozen memory before
    /// it is committed. Takes long; for tests, and for whoever wants to know.
    pub audit: bool,
    /// Whether what is written since the last look is sent before the freeze, while the program still
    /// runs. Off only for measurements: the freeze reads all of it then.
    pub hurry: bool,
    /// Longest time CRIU may take to describe a process tree.
    #[serde(with = "humantime_serde")]
    pub describe_timeout: Duration,
}

/// How workloads are restored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restore {
    /// Whether memory that processes of a tree have in common is merged by the kernel (KSM) when all
    /// is loaded. Other users of the machine may notice by timing what is merged.
    pub reshare: bool,
}

/// Checkpoints that are kept near (`lifeboat prefetch`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warm {
    /// Most bytes of packs; zero: nothing is kept.
    pub bytes: u64,
    /// Folder for them, the daemon's own; without it, one below the state directory. One that lies in
    /// memory is faster.
    pub folder: Option<PathBuf>,
}

/// How much work goes into compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// Chosen for each frame, by what the link and the processors carry.
    Auto,
    /// None.
    Raw,
    /// LZ4.
    Fast,
    /// Zstandard 1.
    Balanced,
    /// Zstandard 6.
    Small,
}

impl From<Effort> for Option<lifeboat_format::Effort> {
    fn from(effort: Effort) -> Self {
        Some(match effort {
            Effort::Auto => return None,
            Effort::Raw => lifeboat_format::Effort::None,
            Effort::Fast => lifeboat_format::Effort::Fast,
            Effort::Balanced => lifeboat_format::Effort::Balanced,
            Effort::Small => lifeboat_format::Effort::Small,
        })
    }
}

impl Default for Save {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            threads: cores.clamp(1, 16),
            uploads: 6,
            buffer_bytes: 96 << 20,
            effort: Effort::Auto,
            audit: false,
            hurry: true,
            describe_timeout: Duration::from_secs(120),
        }
    }
}

/// The file as written: every key optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: Option<String>,
    socket: Option<PathBuf>,
    socket_group: Option<String>,
    state_dir: Option<PathBuf>,
    node: Option<String>,
    metadata_endpoint: Option<String>,
    #[serde(default)]
    watch: WatchConfig,
    metrics_listen: Option<String>,
    listen: Option<String>,
    tls: Option<Tls>,
    criu_bundle: Option<PathBuf>,
    libexec: Option<PathBuf>,
    key_file: Option<PathBuf>,
    log: Option<String>,
    log_json: Option<bool>,
    #[serde(default)]
    save: Save,
    #[serde(default)]
    warm: Warm,
    #[serde(default)]
    restore: Restore,
    #[serde(default)]
    precopy: Limits,
    #[serde(default)]
    drill: DrillConfig,
    #[serde(default, with = "humantime_serde")]
    lease: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    takeover_wait: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    read_timeout: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    notice: Option<Duration>,
}

impl Config {
    /// Puts the layers together.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or a value cannot be used.
    pub fn load(settings: Settings) -> Result<Self, ConfigError> {
        let file = read_file(settings.config.as_deref())?;
        let state_dir = settings
            .state_dir
            .or(file.state_dir)
            .unwrap_or_else(|| PathBuf::from("/var/lib/lifeboat"));
        let state_dir = std::path::absolute(&state_dir).unwrap_or(state_dir);
        let config = Self {
            store: settings
                .store
                .or(file.store)
                .unwrap_or_else(|| format!("file://{}", state_dir.join("store").display())),
            socket: absolute(
                settings.socket.or(file.socket),
                "/run/lifeboat/lifeboatd.sock",
            ),
            socket_group: settings.socket_group.or(file.socket_group),
            node: settings.node.or(file.node).unwrap_or_else(host_name),
            watch: watch(
                file.watch,
                settings.metadata_endpoint.or(file.metadata_endpoint),
            ),
            metrics_listen: address(
                "metrics-listen",
                settings.metrics_listen.or(file.metrics_listen),
            )?,
            listen: address("listen", settings.listen.or(file.listen))?,
            tls: file.tls,
            criu_bundle: absolute(
                settings.criu_bundle.or(file.criu_bundle),
                "/usr/lib/lifeboat/criu",
            ),
            program: std::env::current_exe().unwrap_or_else(|_| "lifeboatd".into()),
            libexec: match settings.libexec.or(file.libexec) {
                Some(folder) => absolute(Some(folder), ""),
                None => own_folder(),
            },
            key_file: settings.key_file.or(file.key_file),
            log: settings
                .log
                .or(file.log)
                .unwrap_or_else(|| "info".to_owned()),
            log_json: settings.log_json || file.log_json.unwrap_or(false),
            save: file.save,
            warm: file.warm,
            restore: file.restore,
            precopy: file.precopy,
            drill: file.drill,
            lease: file.lease.unwrap_or(Duration::from_secs(30)),
            notice: file.notice.unwrap_or(Duration::from_secs(25)),
            takeover_wait: file.takeover_wait.unwrap_or(Duration::from_secs(60)),
            read_timeout: file.read_timeout.unwrap_or(Duration::from_secs(120)),
            state_dir,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |name, value: String, reason: &str| {
            Err(ConfigError::Value {
                name,
                value,
                reason: reason.to_owned(),
            })
        };
        if let Some(listen) = self.listen
            && !listen.ip().is_loopback()
            && self.tls.is_none()
        {
            return refuse(
                "listen",
                listen.to_string(),
                "other than loopback needs [tls]",
            );
        }
        if self.save.threads == 0 || self.save.uploads == 0 {
            return refuse(
                "save",
                format!("{:?}", self.save),
                "threads and uploads begin at 1",
            );
        }
        if let Some((name, value, reason)) = self.watch.problem() {
            return refuse(name, value, &reason);
        }
        if let Some(problem) = self.drill.problem() {
            return refuse("drill", format!("{:?}", self.drill), problem);
        }
        if let Some(problem) = self.precopy.problem() {
            return refuse("precopy", format!("{:?}", self.precopy), problem);
        }
        if self.node.is_empty() || self.node.len() > 253 {
            return refuse("node", self.node.clone(), "use 1 to 253 characters");
        }
        if self.lease < Duration::from_secs(3) {
            return refuse("lease", format!("{:?}", self.lease), "use at least 3s");
        }
        Ok(())
    }
}

fn watch(mut section: WatchConfig, endpoint: Option<String>) -> WatchConfig {
    if let Some(endpoint) = endpoint {
        section.set_endpoint(&endpoint);
    }
    section
}

fn read_file(named: Option<&Path>) -> Result<File, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG_FILE));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

fn absolute(path: Option<PathBuf>, default: &str) -> PathBuf {
    let path = path.unwrap_or_else(|| PathBuf::from(default));
    std::path::absolute(&path).unwrap_or(path)
}

fn address(name: &'static str, value: Option<String>) -> Result<Option<SocketAddr>, ConfigError> {
    value
        .map(|value| {
            value
                .parse()
                .map_err(|error: std::net::AddrParseError| ConfigError::Value {
                    name,
                    value,
                    reason: format!("{error}; write for example 127.0.0.1:9090"),
                })
        })
        .transpose()
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn own_folder() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|program| program.parent().map(Path::to_owned))
        .unwrap_or_else(|| PathBuf::from("/usr/lib/lifeboat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, settings: Settings) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        fs::write(&path, toml).unwrap();
        Config::load(Settings {
            config: Some(path),
            ..settings
        })
    }

    #[test]
    fn flags_win_over_the_file() {
        let settings = Settings {
            node: Some("flag".into()),
            ..Settings::default()
        };
        let config = load("node = 'file'\nlease = '9s'", settings).unwrap();
        assert_eq!(config.node, "flag");
        assert_eq!(config.lease, Duration::from_secs(9));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let error = load("stroe = 'x'", Settings::default()).unwrap_err();
        assert!(matches!(error, ConfigError::Parse { .. }));
    }

    #[test]
    fn drills_have_an_interval_that_can_be_meant() {
        let none = load("", Settings::default()).unwrap().drill;
        assert_eq!((none.interval, none.within), (None, None));
        let toml = "[drill]\ninterval = '6h'\nwithin = '25s'";
        let drill = load(toml, Settings::default()).unwrap().drill;
        assert_eq!(drill.interval, Some(Duration::from_secs(6 * 3600)));
        let error = load("[drill]\ninterval = '10ms'", Settings::default()).unwrap_err();
        assert!(matches!(error, ConfigError::Value { name: "drill", .. }));
    }

    #[test]
    fn a_metadata_server_holds_for_every_cloud_and_what_is_wrong_is_named() {
        let settings = Settings {
            metadata_endpoint: Some("http://127.0.0.1:1".into()),
            ..Settings::default()
        };
        let config = load("[watch]\ncloud = ['gce', 'azure']", settings).unwrap();
        assert_eq!(config.watch.azure.endpoint, "http://127.0.0.1:1");
        // What is printed can be read again.
        let printed = toml::to_string(&config.watch).unwrap();
        toml::from_str::<WatchConfig>(&printed).unwrap();
        let said = |toml: &str| {
            let error = load(toml, Settings::default()).unwrap_err();
            crate::observe::chain(&error)
        };
        let wrong = said("[watch]\ncloud = 'gcp'");
        assert!(
            wrong.contains("write auto, none, gce, aws or azure"),
            "{wrong}"
        );
        let wrong = said("[watch.aws]\npoll = '1m'");
        assert!(wrong.contains("watch.aws.poll"), "{wrong}");
        let wrong = said("metadata_endpoint = 'https://x'");
        assert!(wrong.contains("plain http"), "{wrong}");
    }

    #[test]
    fn listening_to_everybody_needs_tls() {
        let settings = Settings {
            listen: Some("0.0.0.0:1".into()),
            ..Settings::default()
        };
        assert!(matches!(
            load("", settings),
            Err(ConfigError::Value { name: "listen", .. })
        ));
    }
}
