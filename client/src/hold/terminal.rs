//! The user's terminal: raw mode that is always undone, and its size.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use lifeboat_proto::hold::WindowSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::ends::is_foreground;

/// The user's terminal. It is in raw mode from [`UserTerminal::refresh`] on, as long as this
/// process is in its foreground; its modes are put back when this value is dropped.
#[derive(Debug)]
pub struct UserTerminal {
    fd: OwnedFd,
    modes: Termios,
    raw: bool,
}

impl UserTerminal {
    /// The terminal behind `fd`, untouched so far.
    ///
    /// # Errors
    /// When it is not a terminal.
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        let modes = tcgetattr(&fd)?;
        Ok(Self {
            fd,
            modes,
            raw: false,
        })
    }

    /// Makes it raw if it is not yet and this process may: what a process in the background does to
    /// the terminal would hit the shell.
    pub fn refresh(&mut self) {
        if self.raw || !is_foreground(&self.fd) {
            return;
        }
        let mut modes = self.modes.clone();
        modes.make_raw();
        // A terminal that does not become raw is still a terminal.
        self.raw = tcsetattr(&self.fd, OptionalActions::Now, &modes).is_ok();
    }

    /// Puts its modes back.
    pub fn restore(&mut self) {
        if self.raw {
            // It may be gone; there is nothing to put back then.
            tcsetattr(&self.fd, OptionalActions::Now, &self.modes).ok();
            self.raw = false;
        }
    }

    /// Whether it is in raw mode.
    #[must_use]
    pub const fn is_raw(&self) -> bool {
        self.raw
    }

    /// Its size.
    #[must_use]
    pub fn window(&self) -> Option<WindowSize> {
        window_of(&self.fd)
    }
}

impl Drop for UserTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

/// The size of the terminal behind `fd`, if it is one that knows it.
#[must_use]
pub fn window_of(fd: impl AsFd) -> Option<WindowSize> {
    let size = tcgetwinsize(fd).ok()?;
    let known = size.ws_row > 0 && size.ws_col > 0;
    known.then(|| WindowSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// Whether a program with these standard streams talks to a person at a terminal.
#[must_use]
pub fn is_interactive() -> bool {
    isatty(io::stdin()) && isatty(io::stdout())
}
