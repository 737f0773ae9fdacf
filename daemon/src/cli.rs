//! The command line, as typed. [`crate::config`] says what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps workloads evacuable, and takes them off this machine before it goes.
#[derive(Debug, Parser)]
#[command(
    name = "lifeboatd",
    version,
    about,
    after_help = "Examples:
  lifeboatd --store file:///var/lib/lifeboat/store
  lifeboatd --store 's3://bucket/prefix?endpoint=http://127.0.0.1:9000' --socket /run/lb.sock
  lifeboatd check        what this kernel, CRIU and store can and cannot do

Every flag has a variable LIFEBOAT_… and a key in the configuration file; flags win over variables,
variables over the file."
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// Settings that may be given as flags.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Configuration file (TOML) [default: /etc/lifeboat/lifeboatd.toml if it exists].
    #[arg(long, global = true, env = "LIFEBOAT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where checkpoints go: s3://bucket/prefix?endpoint=…, gs://bucket/prefix or file:///dir
    /// [default: file:// below the state directory].
    #[arg(long, global = true, env = "LIFEBOAT_STORE", value_name = "URL")]
    pub store: Option<String>,
    /// Socket to listen on [default: /run/lifeboat/lifeboatd.sock].
    #[arg(long, global = true, env = "LIFEBOAT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Directory for journals and logs [default: /var/lib/lifeboat].
    #[arg(long, global = true, env = "LIFEBOAT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Name of this node [default: the host's name].
    #[arg(long, global = true, env = "LIFEBOAT_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// Address of the cloud's metadata server, for all clouds [default: http://169.254.169.254].
    #[arg(
        long,
        global = true,
        env = "LIFEBOAT_METADATA_ENDPOINT",
        value_name = "URL"
    )]
    pub metadata_endpoint: Option<String>,
    /// Address for /metrics, /healthz and /readyz [default: none].
    #[arg(
        long,
        global = true,
        env = "LIFEBOAT_METRICS_LISTEN",
        value_name = "ADDR"
    )]
    pub metrics_listen: Option<String>,
    /// Additional gRPC address; loopback only unless TLS is configured [default: none].
    #[arg(long, global = true, env = "LIFEBOAT_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Folder of the CRIU bundle [default: /usr/lib/lifeboat/criu].
    #[arg(long, global = true, env = "LIFEBOAT_CRIU_BUNDLE", value_name = "DIR")]
    pub criu_bundle: Option<PathBuf>,
    /// Folder of the `lifeboat`, `lifeboat-hook` and `liblifeboat_preload.so` files
    /// [default: the folder of this program].
    #[arg(long, global = true, env = "LIFEBOAT_LIBEXEC", value_name = "DIR")]
    pub libexec: Option<PathBuf>,
    /// File with a key of at least 32 bytes that authenticates everything in the store.
    #[arg(long, global = true, env = "LIFEBOAT_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Group that may use the socket.
    #[arg(
        long,
        global = true,
        env = "LIFEBOAT_SOCKET_GROUP",
        value_name = "GROUP"
    )]
    pub socket_group: Option<String>,
    /// Log filter, for example `info` or `lifeboatd=debug`.
    #[arg(long, global = true, env = "LIFEBOAT_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Write log lines as JSON.
    #[arg(long, global = true, env = "LIFEBOAT_LOG_JSON")]
    pub log_json: bool,
}

/// What the program can do besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell what this kernel, CRIU and store can and cannot do.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration and print the values in force.
    Config,
    /// Make namespaces for a hold and start it there (used by the daemon itself).
    #[command(hide = true)]
    HoldSpawn(HoldSpawn),
    /// Finish a hold's namespaces as their first process (used by the daemon itself).
    #[command(hide = true)]
    HoldStage(HoldStage),
    /// Set the last PID of the current PID namespace (used by the daemon itself).
    #[command(hide = true)]
    SetLastPid {
        /// The PID after which the next process is numbered.
        pid: u32,
    },
    /// Write a workload's files to standard output (used by the daemon itself).
    #[command(hide = true)]
    FilesArchive(AsUser),
    /// Read a workload's files from standard input (used by the daemon itself).
    #[command(hide = true)]
    FilesExtract(AsUser),
}

/// A user to become.
#[derive(Clone, Debug, Args)]
pub struct AsUser {
    /// User id.
    #[arg(long)]
    pub uid: u32,
    /// Group id.
    #[arg(long)]
    pub gid: u32,
    /// Supplementary groups.
    #[arg(long, value_delimiter = ',')]
    pub groups: Vec<u32>,
    /// Paths to work on.
    pub paths: Vec<PathBuf>,
}

/// Arguments of the first step of starting a hold.
#[derive(Clone, Debug, Args)]
pub struct HoldSpawn {
    /// Process whose control groups the hold joins.
    #[arg(long)]
    pub caller: u32,
    /// Who the hold runs as, and how.
    #[command(flatten)]
    pub stage: HoldStage,
}

/// Arguments of the second step of starting a hold.
#[derive(Clone, Debug, Args)]
pub struct HoldStage {
    /// User id.
    #[arg(long)]
    pub uid: u32,
    /// Group id.
    #[arg(long)]
    pub gid: u32,
    /// Supplementary groups.
    #[arg(long, value_delimiter = ',')]
    pub groups: Vec<u32>,
    /// The `lifeboat` program.
    #[arg(long)]
    pub program: PathBuf,
}
