//! Whom a hold talks to: the front half, or, when both are one process, the user directly.

use std::{
    io::Write as _,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lifeboat_proto::hold::{Ended, Note, Running, ToFront, ToInit, WindowSize, to_front, to_init};

use super::super::{
    ready::WaitSet,
    terminal::UserTerminal,
    wire::{Wire, WireError},
};

/// How long the front half may take to read the last words.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(5);

/// The front half, or what stands for it.
#[derive(Debug)]
pub(super) enum Face {
    /// Another process.
    Front(Wire),
    /// It was another process, and has gone.
    Gone,
    /// This process.
    Here(Option<UserTerminal>),
}

impl Face {
    /// A line for people.
    pub(super) fn say(&mut self, text: &str) {
        match self {
            Self::Front(_) => self.tell(to_front::Message::Note(Note {
                text: text.to_owned(),
            })),
            Self::Gone => {}
            Self::Here(terminal) => {
                let raw = terminal.as_ref().is_some_and(UserTerminal::is_raw);
                print_note(text, raw);
            }
        }
    }

    /// The workload runs from now on.
    pub(super) fn running(&mut self) {
        match self {
            Self::Here(Some(terminal)) => terminal.refresh(),
            Self::Here(None) | Self::Gone => {}
            Self::Front(_) => self.tell(to_front::Message::Running(Running {})),
        }
    }

    /// The end. Waits until the front half can read it.
    pub(super) fn ended(&mut self, code: u8) {
        if let Self::Here(terminal) = self {
            *terminal = None;
            return;
        }
        self.tell(to_front::Message::Ended(Ended {
            exit_code: code.into(),
        }));
        let deadline = Instant::now() + LAST_WORDS_WAIT;
        while let Self::Front(wire) = self
            && wire.wants_write()
            && Instant::now() < deadline
        {
            let mut waits = WaitSet::new();
            waits.writable((), wire.socket());
            if waits.wait(Some(deadline)).is_err() || wire.flush().is_err() {
                *self = Self::Gone;
            }
        }
    }

    /// What the front half said. An error: it has gone.
    pub(super) fn hear(&mut self) -> Result<Vec<to_init::Message>, WireError> {
        let Self::Front(wire) = self else {
            return Ok(Vec::new());
        };
        wire.receive()?;
        let mut heard = Vec::new();
        while let Some(said) = wire.next_message::<ToInit>()? {
            heard.extend(said.message);
        }
        Ok(heard)
    }

    /// The terminal's size, if this process has the terminal.
    pub(super) fn window(&self) -> Option<WindowSize> {
        match self {
            Self::Here(Some(terminal)) => terminal.window(),
            _ => None,
        }
    }

    /// The terminal, if this process has it.
    pub(super) const fn terminal(&mut self) -> Option<&mut UserTerminal> {
        match self {
            Self::Here(terminal) => terminal.as_mut(),
            _ => None,
        }
    }

    fn tell(&mut self, message: to_front::Message) {
        let Self::Front(wire) = self else { return };
        // That it has gone shows at the next read.
        drop(wire.send(
            &ToFront {
                message: Some(message),
            },
            Vec::<OwnedFd>::new(),
        ));
    }
}

/// Prints a line of the hold's own on standard error.
pub(crate) fn print_note(text: &str, raw_terminal: bool) {
    let end = if raw_terminal { "\r\n" } else { "\n" };
    // Nobody is left to tell when standard error is gone.
    drop(write!(std::io::stderr(), "lifeboat: {text}{end}"));
}
