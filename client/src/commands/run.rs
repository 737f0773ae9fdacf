//! `lifeboat run`: from the command line to what a hold runs.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use lifeboat_client::{
    Endpoint,
    hold::{
        front,
        terminal::{is_interactive, window_of},
    },
};
use lifeboat_proto::hold::HoldSpec;

use super::Failure;
use crate::cli::{Run, Tcp, Terminal};

/// Runs the workload and returns the exit code of the hold.
pub(super) fn run(socket: &Endpoint, run: Run) -> Result<u8, Failure> {
    front::run(spec(socket, run)?).map_err(Failure::Hold)
}

fn spec(socket: &Endpoint, run: Run) -> Result<HoldSpec, Failure> {
    let system = |what| move |source| Failure::NotStarted { what, source };
    let directory = std::env::current_dir().map_err(system("find the working directory"))?;
    let socket = socket.socket().ok_or_else(|| {
        Failure::Usage(format!("run needs the daemon's Unix socket, not {socket}"))
    })?;
    let absolute = |path: &Path| directory.join(path);
    let preserve = run
        .preserve
        .iter()
        .map(|path| text(absolute(path), "--preserve"));
    let terminal = match run.terminal {
        Terminal::Always => true,
        Terminal::Never => false,
        Terminal::Auto => is_interactive(),
    };
    let environment = std::env::vars_os().map(|(name, value)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        entry.into()
    });
    let every = run.checkpoint_every.unwrap_or_default().as_millis();
    Ok(HoldSpec {
        workload: run.workload.to_string(),
        argv: run
            .argv
            .into_iter()
            .map(|argument| text(PathBuf::from(argument), "an argument of the command"))
            .collect::<Result<_, _>>()?,
        environment: environment.collect(),
        preserve: preserve.collect::<Result<_, _>>()?,
        tcp: match run.tcp {
            Tcp::Close => "close".to_owned(),
            Tcp::Keep => "keep".to_owned(),
        },
        terminal,
        window: terminal.then(|| window_of(io::stdin())).flatten(),
        umask: umask(),
        require_daemon: run.require_daemon,
        eager: run.eager,
        fresh: run.fresh,
        take_over: run.take_over,
        priority: run.priority,
        checkpoint_every_ms: u64::try_from(every).unwrap_or(u64::MAX),
        socket: text(absolute(socket), "--socket")?,
        working_directory: text(directory.clone(), "the working directory")?,
    })
}

/// The contract carries text here.
fn text(path: PathBuf, what: &str) -> Result<String, Failure> {
    OsString::from(path)
        .into_string()
        .map_err(|path| Failure::Usage(format!("{what} is not text in UTF-8: {}", path.display())))
}

/// The mask can only be read by setting it; this process is single-threaded.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}
