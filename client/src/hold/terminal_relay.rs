//! The pseudo-terminal of a workload.
//!
//! It is the first process of a workload that has a terminal. Both sides of the pseudo-terminal
//! live inside the checkpointed tree and come back with it; the user's terminal is reached through
//! the hold's pipes. The relay ends with the command's exit code, after all of its output.

use std::{ffi::OsString, io, os::fd::OwnedFd, process::Command};

use lifeboat_proto::hold::WindowSize;
use lifeboat_sys::spawn::ChildSetup;
use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::{
    children,
    command::CONTROL_FD,
    ends::{Sink, Source},
    exit_code_of, inherited,
    init::{WINDOW_BYTES, decode_window, print_note, with_cause},
    pump::{AtEnd, Pump, Wait},
    ready::WaitSet,
    signals::{self, Meaning, Signals},
};

/// Exit code when the command cannot be started, as of shells.
const EXIT_CANNOT_EXECUTE: u8 = 126;

/// Exit code when the command is not there, as of shells.
const EXIT_NOT_FOUND: u8 = 127;

/// Rounds of draining (1 MiB each) after the command has ended; processes that it left behind may
/// write for ever.
const DRAIN_ROUNDS_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Control,
    Input,
    Output,
}

struct Relay {
    master: OwnedFd,
    control: Option<OwnedFd>,
    signals: Signals,
    input: Pump,
    output: Pump,
    child: i32,
}

/// The hidden subcommand: runs `argv` under a pseudo-terminal of the given size. Returns the
/// command's exit code.
///
/// # Errors
/// When there is no pseudo-terminal to be had.
pub fn run(argv: &[OsString], window: Option<WindowSize>) -> io::Result<u8> {
    let control = inherited::take(CONTROL_FD)?;
    let signals = Signals::take_over()?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    if let Some(window) = window {
        resize(&master, window);
    }
    let child = match start(argv, slave) {
        Ok(child) => child,
        Err(error) => {
            let program = argv.first().map(OsString::as_os_str).unwrap_or_default();
            print_note(
                &format!("start {}: {}", program.display(), with_cause(&error)),
                false,
            );
            let missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(if missing {
                EXIT_NOT_FOUND
            } else {
                EXIT_CANNOT_EXECUTE
            });
        }
    };
    let input = Pump::new(
        Source::blocking(inherited::copy(io::stdin())?),
        Sink::owned(inherited::copy(&master)?)?,
        AtEnd::TypeEnd,
    );
    // The pipe's flags can be other ones after a restore, so small writes are made that never
    // block.
    let output = Pump::new(
        Source::owned(inherited::copy(&master)?)?,
        Sink::careful(inherited::copy(io::stdout())?),
        AtEnd::Close,
    );
    Relay {
        master,
        control: Some(control),
        signals,
        input: input.in_small_steps(),
        output,
        child,
    }
    .run()
}

fn start(argv: &[OsString], slave: OwnedFd) -> io::Result<i32> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut setup = ChildSetup::new();
    setup
        .default_signals()
        .controlling_terminal(slave.try_clone()?);
    let mut command = Command::new(program);
    command.args(arguments);
    command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave);
    setup.apply(&mut command);
    Ok(command.spawn()?.id().cast_signed())
}

impl Relay {
    fn run(mut self) -> io::Result<u8> {
        loop {
            for token in self.wait()? {
                match token {
                    Token::Signals => {
                        if let Some(status) = self.signals()? {
                            self.drain()?;
                            return Ok(exit_code_of(status));
                        }
                    }
                    Token::Control => self.control(),
                    Token::Input => step(&mut self.input),
                    Token::Output => step(&mut self.output),
                }
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut waits = WaitSet::new();
        waits.readable(Token::Signals, self.signals.fd());
        if let Some(control) = &self.control {
            waits.readable(Token::Control, control);
        }
        for (token, pump) in [(Token::Input, &self.input), (Token::Output, &self.output)] {
            match (pump.wait(), pump.source(), pump.sink()) {
                (Wait::Source, Some(source), _) => waits.readable(token, source),
                (Wait::Sink, _, Some(sink)) => waits.writable(token, sink),
                _ => {}
            }
        }
        waits.wait(None)
    }

    /// Passes signals on. The command's status, when it has ended.
    fn signals(&mut self) -> io::Result<Option<i32>> {
        while let Some(meaning) = self.signals.next_signal()? {
            match meaning {
                Meaning::Child => {
                    let (ended, _) = children::reap()?;
                    if let Some(child) = ended.iter().find(|child| child.pid == self.child) {
                        return Ok(Some(child.status));
                    }
                }
                Meaning::Forward { number, group } => {
                    // What cannot be sent to one's own child is no signal.
                    drop(signals::send(self.child, number, group));
                }
                Meaning::Window | Meaning::Stop { .. } | Meaning::Nothing => {}
            }
        }
        Ok(None)
    }

    /// A new size.
    fn control(&mut self) {
        let Some(control) = &self.control else { return };
        let mut bytes = [0; WINDOW_BYTES];
        match rustix::io::read(control, &mut bytes) {
            Ok(WINDOW_BYTES) => resize(&self.master, decode_window(bytes)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(_) | Err(_) => self.control = None,
        }
    }

    /// Relays what the command has written before it ended.
    fn drain(&mut self) -> io::Result<()> {
        for _ in 0..DRAIN_ROUNDS_MAX {
            self.output.drain()?;
            match (self.output.wait(), self.output.sink()) {
                (Wait::Done, _) => break,
                (Wait::Sink, Some(sink)) => {
                    let mut waits = WaitSet::new();
                    waits.writable((), sink);
                    waits.wait(None)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn step(pump: &mut Pump) {
    if pump.step().is_err() {
        pump.close();
    }
}

fn resize(master: &OwnedFd, window: WindowSize) {
    let part = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: part(window.rows),
        ws_col: part(window.columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A terminal of the wrong size is still a terminal.
    tcsetwinsize(master, size).ok();
}
