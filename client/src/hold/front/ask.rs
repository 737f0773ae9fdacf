//! Asking the daemon for namespaces with the init half in them.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lifeboat_proto::hold::{HoldSpec, Spawn, ToDaemon, ToHold, to_daemon, to_hold};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{
    super::{
        EXIT_NOT_STARTED,
        ends::{Sink, Source},
        exit_code_of, inherited,
        init::{print_note, with_cause},
        pump::{AtEnd, Pump},
        ready::WaitSet,
        signals::{self, Meaning, Signals},
        wire::{Wire, WireError},
    },
    FrontError, SPAWN_WAIT, system,
};

#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Daemon,
    DaemonRoom,
}

/// What became of the attempt to have the daemon start the init half.
pub(super) enum Spawned {
    /// It runs; this is the socket to it.
    Yes(Wire),
    /// It does not; run in place, and look for the daemon for so long.
    InPlace(Duration),
    /// It does not, and the hold ends with this code.
    End(u8),
}

/// What the init half gets as standard input. A terminal is read by this half, which belongs to its
/// session: job control works, and a hold in the background does not steal the shell's input.
pub(super) fn input() -> Result<(Option<Pump>, OwnedFd), FrontError> {
    let own = inherited::copy(io::stdin()).map_err(system("copy standard input"))?;
    if !rustix::termios::isatty(&own) {
        return Ok((None, own));
    }
    let (theirs, ours) = io::pipe().map_err(system("make a pipe"))?;
    let sink = Sink::owned(ours.into()).map_err(system("prepare a pipe"))?;
    let pump = Pump::new(Source::shared(own), sink, AtEnd::Close);
    Ok((Some(pump.in_small_steps()), theirs.into()))
}

/// Has the daemon start the init half.
pub(super) fn spawn(
    spec: &HoldSpec,
    daemon: &mut Wire,
    stdin: OwnedFd,
    signals: &Signals,
) -> Result<Spawned, FrontError> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| system("make a socket pair")(errno.into()))?;
    let init = Wire::new(ours)
        .map_err(|error| system("prepare a socket pair")(io::Error::other(error)))?;
    let stdout = inherited::copy(io::stdout()).map_err(system("copy standard output"))?;
    let stderr = inherited::copy(io::stderr()).map_err(system("copy standard error"))?;
    let message = to_daemon::Message::Spawn(Spawn {
        spec: Some(spec.clone()),
    });
    let message = ToDaemon {
        message: Some(message),
    };
    let sent = daemon.send(&message, vec![stdin, stdout, stderr, theirs]);
    let answer = match sent {
        Ok(()) => answer(daemon, signals)?,
        Err(error) => Answer::Lost(error),
    };
    let name = &spec.workload;
    let (why, may_start) = match answer {
        Answer::Spawned => return Ok(Spawned::Yes(init)),
        Answer::Interrupted(code) => return Ok(Spawned::End(code)),
        Answer::Failed(why, may_start) => (why, may_start),
        Answer::Lost(error) => {
            let why = with_cause(&error);
            let socket = &spec.socket;
            (
                format!("the daemon at {socket} went away while it started the hold: {why}"),
                false,
            )
        }
        Answer::Late => {
            let socket = &spec.socket;
            let why = format!("the daemon at {socket} has not started it within {SPAWN_WAIT:?}");
            (why, false)
        }
    };
    if may_start && !spec.require_daemon {
        print_note(&format!("{name}: {why}; started in place"), false);
        return Ok(Spawned::InPlace(Duration::ZERO));
    }
    print_note(&format!("{name}: not started: {why}"), false);
    Ok(Spawned::End(EXIT_NOT_STARTED))
}

/// What the daemon said to the wish for namespaces.
enum Answer {
    Spawned,
    Failed(String, bool),
    Lost(WireError),
    Late,
    Interrupted(u8),
}

fn answer(daemon: &mut Wire, signals: &Signals) -> Result<Answer, FrontError> {
    let deadline = Instant::now() + SPAWN_WAIT;
    while Instant::now() < deadline {
        let mut waits = WaitSet::new();
        waits.readable(Token::Signals, signals.fd());
        waits.readable(Token::Daemon, daemon.socket());
        if daemon.wants_write() {
            waits.writable(Token::DaemonRoom, daemon.socket());
        }
        for token in waits
            .wait(Some(deadline))
            .map_err(system("wait for the daemon"))?
        {
            let result = match token {
                Token::DaemonRoom => daemon.flush(),
                Token::Daemon => daemon.receive(),
                Token::Signals => Ok(()),
            };
            if let Err(error) = result {
                return Ok(Answer::Lost(error));
            }
        }
        while let Some(meaning) = signals.next_signal().map_err(system("read a signal"))? {
            if let Meaning::Forward { number, .. } = meaning
                && signals::asks_to_end(number)
            {
                return Ok(Answer::Interrupted(exit_code_of(number)));
            }
        }
        match daemon.next_message::<ToHold>() {
            Ok(None) => {}
            Ok(Some(ToHold {
                message: Some(to_hold::Message::Failed(failed)),
            })) => {
                return Ok(Answer::Failed(failed.reason, failed.may_start));
            }
            Ok(Some(_)) => return Ok(Answer::Spawned),
            Err(error) => return Ok(Answer::Lost(error)),
        }
    }
    Ok(Answer::Late)
}
