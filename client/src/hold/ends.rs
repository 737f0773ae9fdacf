//! The two ends of a [`super::pump::Pump`], and how each is kept from blocking.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags},
    termios::{LocalModes, SpecialCodeIndex},
};

/// Where bytes come from.
#[derive(Debug)]
pub struct Source {
    pub(super) fd: OwnedFd,
    pub(super) nonblocking: bool,
    terminal: bool,
}

/// Where bytes go to.
#[derive(Debug)]
pub struct Sink {
    pub(super) fd: OwnedFd,
    pub(super) nonblocking: bool,
}

impl Source {
    /// A pipe or terminal end that belongs to this process alone; it becomes non-blocking.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn owned(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            nonblocking: true,
            terminal: false,
        })
    }

    /// A descriptor that is shared with other processes, whose flags must not change.
    #[must_use]
    pub fn shared(fd: OwnedFd) -> Self {
        let terminal = rustix::termios::isatty(&fd);
        Self {
            fd,
            nonblocking: false,
            terminal,
        }
    }

    /// A shared descriptor that is read whether or not this process is in the foreground.
    #[must_use]
    pub const fn blocking(fd: OwnedFd) -> Self {
        Self {
            fd,
            nonblocking: false,
            terminal: false,
        }
    }

    pub(super) fn in_background(&self) -> bool {
        self.terminal && !is_foreground(&self.fd)
    }
}

impl Sink {
    /// A pipe or terminal end that belongs to this process alone; it becomes non-blocking.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn owned(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            nonblocking: true,
        })
    }

    /// A descriptor that is shared with other processes, whose flags must not change. Pipes and
    /// terminals are opened once more, so that writing never blocks; where that is not possible,
    /// small writes do.
    #[must_use]
    pub fn shared(fd: OwnedFd) -> Self {
        reopen(&fd).map_or(
            Self {
                fd,
                nonblocking: false,
            },
            |fd| Self {
                fd,
                nonblocking: true,
            },
        )
    }

    /// A descriptor that is given small writes only, whatever its flags are or become.
    #[must_use]
    pub const fn careful(fd: OwnedFd) -> Self {
        Self {
            fd,
            nonblocking: false,
        }
    }
}

/// Whether this process is in the foreground of the terminal, so that it may read it. What is not
/// this session's terminal may be read at any time.
#[must_use]
pub fn is_foreground(terminal: impl AsFd) -> bool {
    match rustix::termios::tcgetpgrp(terminal) {
        Ok(foreground) => foreground == rustix::process::getpgrp(),
        Err(_) => true,
    }
}

/// Whether a sink can take bytes now.
pub(super) enum Room {
    /// It can.
    Some,
    /// It cannot yet.
    Full,
    /// It never will.
    Gone,
}

/// Looks whether a sink can take bytes.
pub(super) fn room(sink: &OwnedFd) -> Room {
    let mut polled = [PollFd::new(sink, PollFlags::OUT)];
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut polled, Some(&none)) {
        Ok(_) if polled[0].revents().contains(PollFlags::ERR) => Room::Gone,
        Ok(0) | Err(_) => Room::Full,
        Ok(_) => Room::Some,
    }
}

/// Opens a pipe or a terminal once more, for non-blocking writes that nobody else notices.
fn reopen(fd: &OwnedFd) -> Option<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).ok()?.st_mode);
    let known = kind == FileType::Fifo || rustix::termios::isatty(fd);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    known
        .then(|| rustix::fs::open(path, flags, Mode::empty()).ok())
        .flatten()
}

/// The character that means the end of input, if the program behind the terminal reads lines.
pub(super) fn end_of_input(terminal: &OwnedFd) -> Option<u8> {
    let modes = rustix::termios::tcgetattr(terminal).ok()?;
    let lines = modes.local_modes.contains(LocalModes::ICANON);
    lines.then(|| modes.special_codes[SpecialCodeIndex::VEOF])
}
