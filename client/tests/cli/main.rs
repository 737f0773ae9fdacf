//! The command line against a daemon that is played by the test: what is printed where, and the
//! exit codes. What scripts rely on is in the snapshots; a change there is a change of contract.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod errors;
mod help;
mod outputs;
mod saving;
mod server;

use std::{path::Path, process::Output};

/// Runs `lifeboat` and waits for its end.
fn lifeboat(socket: &Path, arguments: &[&str]) -> Run {
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("lifeboat"));
    command
        .env_remove("LIFEBOAT_SOCKET")
        .env("COLUMNS", "100")
        .env("TERM", "dumb");
    command.arg("--socket").arg(socket).args(arguments);
    Run(command.output().unwrap())
}

/// How a run ended.
struct Run(Output);

impl Run {
    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    fn stdout(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    fn stderr(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }

    /// Standard output of a run that went well and had nothing to say to people.
    fn printed(&self) -> &str {
        assert_eq!(self.stderr(), "");
        assert_eq!(self.code(), 0);
        self.stdout()
    }
}
