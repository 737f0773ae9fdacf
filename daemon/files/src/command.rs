//! The two hidden subcommands of the daemon's binary. They run as processes of their own: as the
//! workload's user, in the workload's mount namespace.
//!
//! Standard error gets one line for each warning (`warning: …`) and, on failure, one last line
//! (`error: …`). Exit status: 0 done, 1 failed, 64 called wrongly.

use std::{
    error::Error,
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
};

use crate::{Limits, Summary, archive, extract};

/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// `lifeboatd files-archive PATH…`: the archive goes to standard output. `args` are the paths.
pub fn archive_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(args, |roots| {
        let out = unbuffered(io::stdout().as_fd())?;
        Ok(archive(roots, out, Limits::default())?)
    })
}

/// `lifeboatd files-extract PATH…`: the archive comes from standard input. `args` are the roots that
/// it may write to.
pub fn extract_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(args, |roots| {
        Ok(extract(unbuffered(io::stdin().as_fd())?, roots)?)
    })
}

fn run(
    args: impl IntoIterator<Item = OsString>,
    work: impl FnOnce(&[PathBuf]) -> Result<Summary, Box<dyn Error>>,
) -> ExitCode {
    let roots: Vec<PathBuf> = args.into_iter().map(PathBuf::from).collect();
    if roots.is_empty() {
        say("error", "name at least one path");
        return ExitCode::from(EXIT_USAGE);
    }
    match work(&roots) {
        Ok(summary) => {
            for warning in &summary.warnings {
                say("warning", warning);
            }
            if summary.warnings_left_out > 0 {
                say("warning", &format!("{} more", summary.warnings_left_out));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            say("error", &text);
            ExitCode::FAILURE
        }
    }
}

/// Writes one line. Paths in it are quoted already, so they bring no line breaks.
fn say(kind: &str, text: &str) {
    // If nobody listens any more, there is nobody to tell.
    let _unheard = writeln!(io::stderr(), "{kind}: {}", text.replace('\n', " "));
}

/// Standard input or output without the standard library's buffer around it.
fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}
