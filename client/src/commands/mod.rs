//! What the command line does.
//!
//! Data goes to standard output, everything for people to standard error. A reader of standard
//! output that goes away early (`| head`) is not a failure.

mod checkpoints;
mod node;
mod notice;
mod prefetch;
mod progress;
mod run;
mod save;
mod workloads;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::CommandFactory as _;
use lifeboat_client::{Client, ClientError, hold};
use lifeboat_proto::hold::WindowSize;
use serde::Serialize;

use crate::cli::{Cli, Command, Output};

/// Exit code: failed.
const EXIT_FAILED: u8 = 1;
/// Exit code: wrong usage.
const EXIT_USAGE: u8 = 2;
/// Exit code: a deadline was missed.
const EXIT_DEADLINE: u8 = 3;
/// Exit code: the daemon cannot be reached.
const EXIT_UNREACHABLE: u8 = 4;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The daemon.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Standard output.
    #[error("write results")]
    Output(#[source] io::Error),
    /// The kernel.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel, before a hold could be run.
    #[error("{what}")]
    NotStarted {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The hold.
    #[error(transparent)]
    Hold(hold::front::FrontError),
    /// What was said cannot be done.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.is_unreachable() => EXIT_UNREACHABLE,
            Self::Client(error) if error.is_deadline() => EXIT_DEADLINE,
            Self::Client(error) if error.is_usage() => EXIT_USAGE,
            Self::Usage(_) => EXIT_USAGE,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Hold(_) | Self::NotStarted { .. } => hold::EXIT_NOT_STARTED,
            _ => EXIT_FAILED,
        }
    }
}

/// Does what the command line says.
pub(crate) fn execute(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Run(run) => run::run(&cli.socket, *run),
        Command::HoldInit => {
            let what = "run the init half of a hold";
            hold::init::run_in_namespaces().map_err(|source| Failure::System { what, source })
        }
        Command::TerminalRelay(relay) => {
            let what = "run the pseudo-terminal of a workload";
            let window = relay.rows.zip(relay.columns);
            let window = window.map(|(rows, columns)| WindowSize { rows, columns });
            hold::terminal_relay::run(&relay.argv, window)
                .map_err(|source| Failure::System { what, source })
        }
        Command::Completions { shell } => completions(shell),
        _ => block_on(cli),
    };
    ExitCode::from(result.unwrap_or_else(|failure| {
        let code = failure.exit_code();
        if code != 0 {
            // Nobody is left to tell when standard error is gone.
            drop(writeln!(
                io::stderr(),
                "lifeboat: {:#}",
                anyhow::Error::new(failure)
            ));
        }
        code
    }))
}

/// Runs what needs the daemon's API. Holds must not get here: they are single-threaded.
fn block_on(cli: Cli) -> Result<u8, Failure> {
    let what = "start the asynchronous runtime";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { what, source })?;
    runtime.block_on(call(cli))
}

async fn call(cli: Cli) -> Result<u8, Failure> {
    let mut client = Client::connect(&cli.socket).await?;
    let output = cli.output;
    match cli.command {
        Command::Attach(attach) => workloads::attach(&mut client, output, attach).await,
        Command::List => workloads::list(&mut client, output).await,
        Command::Status { name: Some(name) } => workloads::status(&mut client, output, &name).await,
        Command::Status { name: None } => node::status(&mut client, output).await,
        Command::Check => node::check(&mut client, output).await,
        Command::Evacuate(save) => {
            save::save(&mut client, output, save::Kind::Evacuate, save).await
        }
        Command::Checkpoint(save) => {
            save::save(&mut client, output, save::Kind::Checkpoint, save).await
        }
        Command::Notice(notice) => notice::give(&mut client, output, notice).await,
        Command::Drill(save) => save::save(&mut client, output, save::Kind::Drill, save).await,
        Command::Checkpoints { name } => {
            checkpoints::list(&mut client, output, name.as_ref()).await
        }
        Command::Inspect(one) => checkpoints::inspect(&mut client, output, one).await,
        Command::Verify(one) => checkpoints::verify(&mut client, output, one).await,
        Command::Prefetch(prefetch) => prefetch::prefetch(&mut client, output, prefetch).await,
        Command::Delete(delete) => checkpoints::delete(&mut client, output, delete).await,
        Command::Gc { dry_run } => checkpoints::collect_garbage(&mut client, output, dry_run).await,
        Command::Run(_)
        | Command::HoldInit
        | Command::TerminalRelay(_)
        | Command::Completions { .. } => unreachable!("these need no connection"),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lifeboat", &mut script);
    io::stdout().write_all(&script).map_err(Failure::Output)?;
    Ok(0)
}

/// Prints a text, or a value as indented JSON.
fn print(
    output: Output,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match output {
        Output::Text => print_text(&text()),
        Output::Json => {
            let json = serde_json::to_string_pretty(value);
            print_text(&(json.map_err(|error| Failure::Output(error.into()))? + "\n"))
        }
    }
}

/// Prints a value as one line of JSON.
fn print_line(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value);
    print_text(&(json.map_err(|error| Failure::Output(error.into()))? + "\n"))
}

fn print_text(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Output)
}
