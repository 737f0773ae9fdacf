//! The connection of a hold to its daemon.
//!
//! The daemon may be absent, restart or be upgraded; the workload runs on. A lost connection is
//! tried again for ever, at intervals that grow from [`RETRY_FIRST`] to [`RETRY_LONGEST`]; nothing
//! here blocks or ends the hold.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lifeboat_proto::{
    HOLD_PREFACE,
    hold::{ToDaemon, to_daemon},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use super::wire::{Wire, WireError};

/// First interval between attempts.
pub const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest interval between attempts.
pub const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// The connection, or the wait for it.
#[derive(Debug)]
pub struct Link {
    socket: PathBuf,
    wire: Option<Wire>,
    retry_at: Instant,
    interval: Duration,
    last_error: Option<io::Error>,
    answered: bool,
}

impl Link {
    /// A link to the daemon at `socket`, not connected yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            wire: None,
            retry_at: Instant::now(),
            interval: RETRY_FIRST,
            last_error: None,
            answered: false,
        }
    }

    /// Where the daemon is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.socket
    }

    /// The connection, while there is one.
    #[must_use]
    pub const fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// The connection, while there is one.
    pub const fn wire_mut(&mut self) -> Option<&mut Wire> {
        self.wire.as_mut()
    }

    /// Why the last attempt failed.
    #[must_use]
    pub const fn last_error(&self) -> Option<&io::Error> {
        self.last_error.as_ref()
    }

    /// When the next attempt is due; `None` while connected.
    #[must_use]
    pub fn next_attempt(&self) -> Option<Instant> {
        self.wire.is_none().then_some(self.retry_at)
    }

    /// Connects if an attempt is due. `true`: a new connection is there, and the preface was sent;
    /// register on it.
    pub fn attempt(&mut self, now: Instant) -> bool {
        if self.wire.is_some() || now < self.retry_at {
            return false;
        }
        match open(&self.socket) {
            Ok(wire) => {
                self.wire = Some(wire);
                true
            }
            Err(error) => {
                self.last_error = Some(error);
                self.lose(now);
                false
            }
        }
    }

    /// Gives the connection up until the next attempt.
    pub fn lose(&mut self, now: Instant) {
        self.wire = None;
        self.retry_at = now + self.interval;
        self.interval = (self.interval * 2).min(RETRY_LONGEST);
    }

    /// The daemon has answered: attempts after a later loss begin fast again.
    pub const fn settle(&mut self) {
        self.interval = RETRY_FIRST;
        self.answered = true;
    }

    /// The daemon does not want this hold: later attempts are rare.
    pub const fn refuse(&mut self) {
        self.interval = RETRY_LONGEST;
        self.answered = true;
    }

    /// Whether a daemon ever answered.
    #[must_use]
    pub const fn was_answered(&self) -> bool {
        self.answered
    }

    /// Says something to the daemon, if it is there. It learns everything again when the hold
    /// registers after a reconnect.
    ///
    /// # Errors
    /// When the connection is lost by it; call [`Link::lose`].
    pub fn say(
        &mut self,
        message: to_daemon::Message,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        let Some(wire) = &mut self.wire else {
            return Ok(());
        };
        wire.send(
            &ToDaemon {
                message: Some(message),
            },
            descriptors,
        )
    }
}

/// Connects to the daemon's socket and says that the hold protocol follows. Does not block: a
/// daemon too busy to accept counts as absent for now.
///
/// # Errors
/// What the kernel says: not found or refused when no daemon is there.
pub fn open(socket: &Path) -> io::Result<Wire> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(socket)?;
    loop {
        match connect(&fd, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut wire = Wire::new(fd).map_err(io::Error::other)?;
    wire.send_raw(HOLD_PREFACE).map_err(io::Error::other)?;
    Ok(wire)
}
