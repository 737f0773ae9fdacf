//! `lifeboat`: the command line of Lifeboat, and the hold that workloads run under.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod render;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => commands::execute(cli),
        Err(error) => {
            // Nobody is left to tell when the streams are gone.
            drop(error.print());
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
