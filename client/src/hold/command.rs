//! The workload's first process.
//!
//! It leads a session of its own, with the hold's pipes as its standard streams, default signals,
//! and the environment, directory and mask of the caller. With a terminal it is the terminal relay,
//! which starts the command in turn.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use lifeboat_proto::hold::HoldSpec;
use lifeboat_sys::spawn::{ChildSetup, SpawnError};

use super::{TERMINAL_RELAY_COMMAND, streams::TheirEnds};

/// Descriptor on which the terminal relay finds the pipe with window sizes.
pub const CONTROL_FD: i32 = 3;

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No command was given.
    #[error("there is no command to start")]
    Empty,
    /// The working directory is not there.
    #[error("working directory {directory:?} of the command cannot be entered")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It could not be executed.
    #[error("start {program:?}")]
    Execute {
        /// The program.
        program: OsString,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The path of this very program is not known.
    #[error("find the path of the lifeboat program")]
    OwnPath(#[source] io::Error),
    /// A descriptor could not be passed.
    #[error("pass descriptors to the command")]
    Setup(#[source] SpawnError),
}

/// Starts the command of `spec` and returns its PID.
///
/// # Errors
/// [`StartError`]; nothing was started then.
pub fn start(spec: &HoldSpec, ends: TheirEnds) -> Result<i32, StartError> {
    let (program, arguments) = spec.argv.split_first().ok_or(StartError::Empty)?;
    let mut setup = ChildSetup::new();
    // A descriptor from outside of the workload's mounts would keep CRIU from saving it.
    setup
        .session_leader()
        .default_signals()
        .close_others()
        // Daemons that the command starts stay below it: what left the tree would not be saved.
        .subreaper()
        .umask(spec.umask);
    let mut command = match ends.control {
        Some(control) => {
            setup
                .pass_fd(control, CONTROL_FD)
                .map_err(StartError::Setup)?;
            terminal_relay(spec)?
        }
        None => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    command.env_clear().envs(environment(spec));
    command
        .stdin(ends.stdin)
        .stdout(ends.stdout)
        .stderr(ends.stderr);
    let directory = Path::new(&spec.working_directory);
    if !directory.as_os_str().is_empty() {
        command.current_dir(directory);
    }
    setup.apply(&mut command);
    let child = command
        .spawn()
        .map_err(|source| explain(program.as_ref(), directory, source))?;
    // Reaped with all other children.
    Ok(child.id().cast_signed())
}

/// The relay is found again by its path when it is restored on another machine, so it is the
/// installed program and not `/proc/self/exe`.
fn terminal_relay(spec: &HoldSpec) -> Result<Command, StartError> {
    let mut command = Command::new(std::env::current_exe().map_err(StartError::OwnPath)?);
    command.arg(TERMINAL_RELAY_COMMAND);
    if let Some(window) = &spec.window {
        command.args(["--rows", &window.rows.to_string()]);
        command.args(["--columns", &window.columns.to_string()]);
    }
    command.arg("--").args(&spec.argv);
    Ok(command)
}

fn environment(spec: &HoldSpec) -> impl Iterator<Item = (OsString, OsString)> {
    spec.environment.iter().filter_map(|entry| {
        // A name may begin with '=', as the standard library has it.
        let equals = entry.iter().skip(1).position(|byte| *byte == b'=')? + 1;
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((text(&entry[..equals]), text(&entry[equals + 1..])))
    })
}

fn explain(program: &OsStr, directory: &Path, source: io::Error) -> StartError {
    let directory_is_there = directory.as_os_str().is_empty() || directory.is_dir();
    if directory_is_there {
        StartError::Execute {
            program: program.to_owned(),
            source,
        }
    } else {
        StartError::Directory {
            directory: directory.to_owned(),
            source,
        }
    }
}
