//! Command line → configuration → logging → runtime → daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use lifeboatd::{
    check,
    cli::{Cli, Command},
    config::Config,
    daemon, hold, observe,
};

/// The status for bad usage or configuration (EX_USAGE of sysexits.h).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    match command {
        Some(Command::HoldSpawn(args)) => return hold::stage::spawn_main(&args),
        Some(Command::HoldStage(args)) => return hold::stage::stage_main(&args),
        Some(Command::SetLastPid { pid }) => return hold::stage::set_last_pid_main(pid),
        Some(Command::FilesArchive(user)) => return hold::stage::archive_main(&user),
        Some(Command::FilesExtract(user)) => return hold::stage::extract_main(&user),
        _ => {}
    }
    let config = match Config::load(settings) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let result = match command {
        Some(Command::Config) => check::print_config(&config),
        Some(Command::Check { json }) => run(check::main(config, json)),
        _ => serve(config),
    };
    match result {
        Ok(code) => code,
        Err(error) => fail(&*error, 1),
    }
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    lifeboat_sys::allocator::set_up();
    observe::start_logging(&config.log, config.log_json)?;
    run(async {
        daemon::run(config).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("lifeboatd")
        .build()?;
    runtime.block_on(work)
}

#[expect(clippy::print_stderr, reason = "the log may not be there yet")]
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("lifeboatd: {}", observe::chain(error));
    ExitCode::from(code)
}
