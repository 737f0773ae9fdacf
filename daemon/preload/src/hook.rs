//! What CRIU runs at the stages of a dump or restore (`--action-script`), and what starts CRIU.
//!
//! As an action script (no argument) it holds CRIU at the stages where the daemon decides, and lets
//! all others pass at once:
//!
//! - `post-dump`: everything about the tree is written, the tree is frozen. Exit 0 lets CRIU kill
//!   the tree (or resume it, if it was asked to), any other end, a signal too, makes CRIU clean up
//!   and resume it.
//! - `post-restore`: the tree is rebuilt and held; the last stage at which CRIU can be told to give
//!   up (a failing `pre-resume` is ignored by CRIU 4.2). Exit 0 lets it run, any other end kills it.
//!
//! Losing the daemon while it has not decided:
//!
//! - before it said that a commit is being attempted: exit 1. A dumped tree runs on, a restored one
//!   is killed (the checkpoint is still there).
//! - after that, the hook cannot know whether the checkpoint was committed, and both ends would be
//!   wrong in one of the cases: killing could lose the workload, resuming could make a second one.
//!   So it keeps the tree frozen and looks for a restarted daemon, which reads the store and
//!   decides. There is no time after which the hook would decide by itself: a tree that stays
//!   frozen is in nobody's way, on a machine that is about to vanish all the less, while the store
//!   says which checkpoint to restore elsewhere. Only the pause between two looks is bounded
//!   ([`RECONNECT_PAUSE_MAX`]).
//! - after that, for a tree that is resumed in any case (`LIFEBOAT_LEAVE_RUNNING`): exit 0.
//!
//! As a launcher it becomes another program:
//!
//! - `lifeboat-hook shield PROGRAM ARGUMENT…`, with the signals ignored that a service manager or a
//!   terminal sends to whole groups: CRIU must not end between freezing and thawing a tree.
//! - `lifeboat-hook criu PRELOAD PROGRAM ARGUMENT…`, inside of the workload's namespaces, with
//!   PRELOAD preloaded (nothing, if empty). It removes CRIU's cache of kernel features from `/run`
//!   before, since the workload may have written it.
#[expect(dead_code, reason = "the filter's part of the protocol")]
mod protocol;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use protocol::{
    ACK_COMMITTING, ENV_HOOK_SOCKET, ENV_LEAVE_RUNNING, STATE_AGAIN, STATE_FIRST, VERDICT_ABORT,
    VERDICT_COMMITTING, VERDICT_RELEASE,
};

/// Actions that wait for a verdict.
const HELD: [&str; 2] = ["post-dump", "post-restore"];

/// First pause between two attempts to find a restarted daemon; it doubles up to
/// [`RECONNECT_PAUSE_MAX`].
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between two attempts to find a restarted daemon.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// CRIU's cache of kernel features. CRIU believes whatever file is there.
const KERNEL_CACHE: &str = "/run/criu.kdat";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == "shield" => shield(arguments),
        Some(word) if word == "criu" => criu(arguments),
        Some(word) => {
            complain(&format!("unknown argument {}", word.display()));
            ExitCode::FAILURE
        }
        None => hold(),
    }
}

/// Waits for the verdict on this action, if it needs one.
fn hold() -> ExitCode {
    let action = env::var("CRTOOLS_SCRIPT_ACTION").unwrap_or_default();
    if !HELD.contains(&action.as_str()) {
        return ExitCode::SUCCESS;
    }
    let Some(socket) = env::var_os(ENV_HOOK_SOCKET) else {
        complain(&format!("{ENV_HOOK_SOCKET} is not set"));
        return ExitCode::FAILURE;
    };
    // The out-of-memory killer would decide for the daemon. Allowed to root only; worth a try.
    let _not_allowed = std::fs::write("/proc/self/oom_score_adj", "-1000");

    match converse(&socket, STATE_FIRST, &action) {
        Ok(Outcome::Release) => ExitCode::SUCCESS,
        Ok(Outcome::Abort) => ExitCode::FAILURE,
        Ok(Outcome::Unknown) if env::var_os(ENV_LEAVE_RUNNING).is_some() => ExitCode::SUCCESS,
        Ok(Outcome::Unknown) => wait_for_successor(&socket, &action),
        Err(error) => {
            complain(&format!("{action}: {}: {error}", socket.display()));
            ExitCode::FAILURE
        }
    }
}

/// How a conversation with a daemon ended.
enum Outcome {
    Release,
    Abort,
    /// It broke off while a commit was being attempted.
    Unknown,
}

/// Speaks with one daemon until it decides or is lost. Losing it before it said that a commit is
/// being attempted is an error.
fn converse(socket: &OsStr, state: &str, action: &str) -> io::Result<Outcome> {
    let mut daemon = UnixStream::connect(socket)?;
    daemon.write_all(format!("{state} {action}\n").as_bytes())?;
    let mut committing = false;
    loop {
        let mut verdict = [0];
        let read = match daemon.read(&mut verdict) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        match (read, verdict[0]) {
            (Ok(1), VERDICT_RELEASE) => return Ok(Outcome::Release),
            (Ok(1), VERDICT_ABORT) => return Ok(Outcome::Abort),
            (Ok(1), VERDICT_COMMITTING) => {
                committing = true;
                // A daemon that is gone shows itself at the next read.
                let _gone = daemon.write_all(&[ACK_COMMITTING]);
            }
            _ if committing => return Ok(Outcome::Unknown),
            (Ok(0), _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Ok(_), _) => return Err(io::ErrorKind::InvalidData.into()),
            (Err(error), _) => return Err(error),
        }
    }
}

/// Keeps the tree frozen until a restarted daemon decides.
fn wait_for_successor(socket: &OsStr, action: &str) -> ExitCode {
    complain("lost the daemon while a commit was being attempted: waiting for it to come back");
    let mut pause = RECONNECT_PAUSE;
    loop {
        match converse(socket, STATE_AGAIN, action) {
            Ok(Outcome::Release) => return ExitCode::SUCCESS,
            Ok(Outcome::Abort) => return ExitCode::FAILURE,
            Ok(Outcome::Unknown) | Err(_) => {}
        }
        thread::park_timeout(pause);
        pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
    }
}

/// Becomes another program, with the signals for groups ignored.
fn shield(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: SIG_IGN is not a function; ignoring these signals needs nothing else.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    become_program(arguments, None)
}

/// Becomes CRIU.
fn criu(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let preload = arguments.next().filter(|preload| !preload.is_empty());
    match std::fs::remove_file(KERNEL_CACHE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            complain(&format!("remove {KERNEL_CACHE}: {error}"));
            ExitCode::FAILURE
        }
        _ => become_program(arguments, preload),
    }
}

fn become_program(
    mut arguments: impl Iterator<Item = OsString>,
    preload: Option<OsString>,
) -> ExitCode {
    let Some(program) = arguments.next() else {
        complain("usage: lifeboat-hook shield PROGRAM… | criu PRELOAD PROGRAM…");
        return ExitCode::FAILURE;
    };
    let mut command = Command::new(&program);
    command.args(arguments);
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", preload);
    }
    let error = command.exec();
    complain(&format!("start {}: {error}", program.display()));
    ExitCode::from(127)
}

/// Says something in CRIU's log (CRIU gives its log as standard error to what it runs).
fn complain(text: &str) {
    let _nowhere_to_say_it = writeln!(io::stderr(), "Error (lifeboat-hook): {text}");
}
