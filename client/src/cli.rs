//! The command line: what can be said, and nothing about what is done.

mod texts;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use lifeboat_client::{DEFAULT_SOCKET, Endpoint};
use lifeboat_proto::id::{CheckpointId, WorkloadName};

use self::texts::{
    ABOUT, CHECKPOINT_EXAMPLES, DRILL_EXAMPLES, EVACUATE_EXAMPLES, EXAMPLES, LIST_EXAMPLES,
    NOTICE_EXAMPLES, PREFETCH_EXAMPLES, RUN_EXAMPLES, STATUS_EXAMPLES,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, about = ABOUT, after_help = EXAMPLES)]
#[command(
    max_term_width = 100,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// Socket of the daemon: a path, or http://HOST:PORT
    #[arg(long, global = true, value_name = "PATH", env = "LIFEBOAT_SOCKET")]
    #[arg(default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub(crate) socket: Endpoint,

    /// How results are printed on standard output
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program as a workload: go on from its checkpoint, or start it
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<Run>),
    /// Look after a program that runs already; it can be saved, but goes on elsewhere only under
    /// `lifeboat run`
    Attach(Attach),
    /// List workloads
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List,
    /// Show the node, or one workload in detail
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// The workload; without it, the node
        name: Option<WorkloadName>,
    },
    /// Save workloads and end them here, so that they go on elsewhere
    #[command(after_help = EVACUATE_EXAMPLES)]
    Evacuate(Save),
    /// Save workloads and let them run on
    #[command(after_help = CHECKPOINT_EXAMPLES)]
    Checkpoint(Save),
    /// List checkpoints, newest first
    Checkpoints {
        /// Of this workload only
        name: Option<WorkloadName>,
    },
    /// Show what a checkpoint holds
    Inspect(OneCheckpoint),
    /// Read every byte of a checkpoint and check it
    Verify(OneCheckpoint),
    /// Bring a checkpoint onto this node, so that it can be restored here without the store
    #[command(after_help = PREFETCH_EXAMPLES)]
    Prefetch(Prefetch),
    /// Delete a checkpoint
    Delete(Delete),
    /// Delete what no checkpoint uses any more
    Gc {
        /// Only tell what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Check what kernel, CRIU and store of this node can and cannot do
    Check,
    /// Rehearse an eviction without harm
    #[command(after_help = DRILL_EXAMPLES)]
    Drill(Save),
    /// Tell the daemon that this machine will go, as a cloud would; or take that back
    #[command(after_help = NOTICE_EXAMPLES)]
    Notice(Notice),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The init half of a hold
    #[command(name = lifeboat_client::hold::INIT_COMMAND, hide = true)]
    HoldInit,
    /// The pseudo-terminal of a workload
    #[command(name = lifeboat_client::hold::TERMINAL_RELAY_COMMAND, hide = true)]
    TerminalRelay(TerminalRelay),
}

/// `lifeboat run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Name of the workload, the same on every machine it moves to
    #[arg(long, short, value_name = "NAME")]
    pub(crate) workload: WorkloadName,

    /// File or directory that moves with the workload; can be given more than once
    #[arg(long, value_name = "PATH")]
    pub(crate) preserve: Vec<PathBuf>,

    /// What happens to established TCP connections: peers see a reset, or they are kept (needs the
    /// same address)
    #[arg(long, value_enum, default_value_t = Tcp::Close)]
    pub(crate) tcp: Tcp,

    /// Whether the program gets a terminal; auto: if standard input and output are one
    #[arg(long, value_enum, default_value_t = Terminal::Auto)]
    pub(crate) terminal: Terminal,

    /// Do not start the program when the daemon is not there
    #[arg(long)]
    pub(crate) require_daemon: bool,

    /// Load all memory before a restored program runs
    #[arg(long)]
    pub(crate) eager: bool,

    /// Never restore: start the command; older checkpoints can no longer be restored
    #[arg(long, conflicts_with = "take_over")]
    pub(crate) fresh: bool,

    /// Take the workload over from a machine that has not released it (it is gone for good), from
    /// its last committed checkpoint
    #[arg(long)]
    pub(crate) take_over: bool,

    /// Larger ones are saved first when there is not time for all
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub(crate) priority: i32,

    /// Also save it at this interval, for example 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) checkpoint_every: Option<Duration>,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) argv: Vec<OsString>,
}

/// `lifeboat attach`.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Name of the workload
    #[arg(long, short, value_name = "NAME")]
    pub(crate) workload: WorkloadName,

    /// First process of the tree
    #[arg(long, value_name = "PID")]
    pub(crate) pid: u32,

    /// File or directory that moves with the workload; can be given more than once
    #[arg(long, value_name = "PATH")]
    pub(crate) preserve: Vec<PathBuf>,

    /// What happens to established TCP connections
    #[arg(long, value_enum, default_value_t = Tcp::Close)]
    pub(crate) tcp: Tcp,
}

/// Which workloads, and in what time.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Save {
    /// Names of workloads
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(crate) names: Vec<WorkloadName>,

    /// All workloads that you may touch
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,

    /// Time until everything must be durable, for example 25s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) within: Option<Duration>,
}

/// `lifeboat notice`.
#[derive(Debug, Args)]
pub(crate) struct Notice {
    /// What will happen
    #[arg(value_enum, required_unless_present = "withdraw")]
    pub(crate) kind: Option<NoticeKind>,

    /// How long the machine stays, for example 25s [default: `notice` of the daemon's configuration]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) within: Option<Duration>,

    /// Only this pod of Kubernetes will go, not the machine
    #[arg(long, value_name = "UID")]
    pub(crate) pod: Option<String>,

    /// Take back what was said by this command before
    #[arg(long, conflicts_with_all = ["kind", "within"])]
    pub(crate) withdraw: bool,
}

/// What will happen to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NoticeKind {
    /// Nothing is decided yet: memory is copied ahead as fast as it goes, and nobody leaves
    Early,
    /// It is taken away: everything that runs here is saved and ended
    Preemption,
    /// It goes down for maintenance: the same
    Maintenance,
}

/// A checkpoint of a workload.
#[derive(Debug, Args)]
pub(crate) struct OneCheckpoint {
    /// The workload
    pub(crate) name: WorkloadName,

    /// The checkpoint; without it, the latest
    #[arg(long, value_name = "ID")]
    pub(crate) checkpoint: Option<CheckpointId>,
}

/// `lifeboat prefetch`.
#[derive(Debug, Args)]
pub(crate) struct Prefetch {
    #[command(flatten)]
    pub(crate) which: OneCheckpoint,

    /// Look for a newer checkpoint at this interval, until interrupted; for example 30s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(conflicts_with = "checkpoint")]
    pub(crate) every: Option<Duration>,
}

/// `lifeboat delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The workload
    pub(crate) name: WorkloadName,

    /// The checkpoint
    #[arg(value_name = "ID")]
    pub(crate) checkpoint: CheckpointId,

    /// Even if it is the latest one of a workload that may still be restored
    #[arg(long)]
    pub(crate) force: bool,
}

/// The hidden `terminal-relay`.
#[derive(Debug, Args)]
pub(crate) struct TerminalRelay {
    #[arg(long, requires = "columns")]
    pub(crate) rows: Option<u32>,

    #[arg(long, requires = "rows")]
    pub(crate) columns: Option<u32>,

    #[arg(last = true, required = true)]
    pub(crate) argv: Vec<OsString>,
}

/// What happens to established TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tcp {
    /// Peers see a reset
    Close,
    /// They are kept; needs the same address
    Keep,
}

/// Whether a program gets a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Terminal {
    /// If standard input and output are one
    Auto,
    /// Yes
    Always,
    /// No
    Never,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_of_run_needs_no_quoting() {
        let line = [
            "lifeboat", "run", "-w", "x", "--fresh", "--", "sh", "-c", "exit 1", "--fresh",
        ];
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not run")
        };
        assert!(run.fresh);
        assert_eq!(run.argv, ["sh", "-c", "exit 1", "--fresh"]);
        let line = [
            "lifeboat", "run", "-w", "x", "sh", "-c", "exit 1", "--fresh",
        ];
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not run")
        };
        assert!(!run.fresh);
        assert_eq!(run.argv, ["sh", "-c", "exit 1", "--fresh"]);
    }

    #[test]
    fn everything_or_something_but_not_both_can_be_saved() {
        assert!(Cli::try_parse_from(["lifeboat", "evacuate"]).is_err());
        assert!(Cli::try_parse_from(["lifeboat", "evacuate", "--all", "a"]).is_err());
        assert!(Cli::try_parse_from(["lifeboat", "evacuate", "a", "b"]).is_ok());
        assert!(Cli::try_parse_from(["lifeboat", "evacuate", "../x"]).is_err());
    }
}
