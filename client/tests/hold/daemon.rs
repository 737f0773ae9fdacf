//! The daemon's side of the hold protocol, played by a test.

use std::{
    io::Read as _,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use lifeboat_client::hold::wire::{Wire, WireError};
use lifeboat_proto::{
    HOLD_PREFACE,
    hold::{
        ExitNoted, Exited, Register, Spawn, Start, Started, ToDaemon, ToHold, to_daemon, to_hold,
    },
};
use lifeboat_sys::wait;
use tempfile::TempDir;

use crate::program::deadline;

/// A socket with a daemon behind it, which can go away and come back.
pub(crate) struct Daemon {
    directory: TempDir,
    listener: Option<UnixListener>,
}

/// A connection from a hold.
pub(crate) struct Hold {
    wire: Wire,
    /// PID of the other side.
    pub(crate) pid: i32,
    descriptors: Vec<OwnedFd>,
}

impl Daemon {
    pub(crate) fn new() -> Self {
        let mut daemon = Self {
            directory: TempDir::new().unwrap(),
            listener: None,
        };
        daemon.come_back();
        daemon
    }

    /// A daemon that is not there yet.
    pub(crate) fn absent() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            listener: None,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("lifeboatd.sock")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn go_away(&mut self) {
        self.listener = None;
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub(crate) fn come_back(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.listener = Some(listener);
    }

    /// Waits for a hold.
    pub(crate) fn accept(&self) -> Hold {
        let listener = self.listener.as_ref().unwrap();
        assert!(
            wait::readable(listener, deadline()).unwrap(),
            "no hold has come"
        );
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut preface = [0; 8];
        stream.read_exact(&mut preface).unwrap();
        assert_eq!(&preface, HOLD_PREFACE);
        Hold::new(stream)
    }

    /// Waits for a hold that presents itself.
    pub(crate) fn registered(&self) -> (Hold, Register) {
        let mut hold = self.accept();
        let to_daemon::Message::Register(register) = hold.hear() else {
            panic!("no Register")
        };
        (hold, register)
    }
}

impl Hold {
    fn new(stream: UnixStream) -> Self {
        let peer =
            nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials);
        let pid = peer.unwrap().pid();
        Self {
            wire: Wire::new(stream.into()).unwrap(),
            pid,
            descriptors: Vec::new(),
        }
    }

    /// Waits for the next message.
    pub(crate) fn hear(&mut self) -> to_daemon::Message {
        self.try_hear().expect("the hold went away")
    }

    pub(crate) fn try_hear(&mut self) -> Result<to_daemon::Message, WireError> {
        loop {
            if let Some(said) = self.wire.next_message::<ToDaemon>()? {
                self.descriptors.extend(self.wire.take_descriptors());
                return Ok(said.message.unwrap());
            }
            assert!(
                wait::readable(self.wire.socket(), deadline()).unwrap(),
                "the hold is silent"
            );
            self.wire.receive()?;
        }
    }

    pub(crate) fn say(&mut self, message: to_hold::Message) {
        self.say_with(message, Vec::new());
    }

    pub(crate) fn say_with(&mut self, message: to_hold::Message, descriptors: Vec<OwnedFd>) {
        self.wire
            .send(
                &ToHold {
                    message: Some(message),
                },
                descriptors,
            )
            .unwrap();
        assert!(!self.wire.wants_write());
    }

    pub(crate) fn say_garbage(&mut self) {
        self.wire.send_raw(&[0xff; 16]).unwrap();
    }

    /// Ends the connection, as the daemon's death does.
    pub(crate) fn disconnect(&self) {
        rustix::net::shutdown(self.wire.socket(), rustix::net::Shutdown::Both).unwrap();
    }

    /// The descriptors that came so far.
    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Has the hold start its command; the PID of its first process.
    pub(crate) fn start(&mut self) -> i32 {
        self.say(to_hold::Message::Start(Start {
            reason: "no checkpoint".into(),
        }));
        self.started()
    }

    pub(crate) fn started(&mut self) -> i32 {
        let to_daemon::Message::Started(Started { root_pid }) = self.hear() else {
            panic!("no Started")
        };
        root_pid.cast_signed()
    }

    /// Waits for the end of the workload; its status.
    pub(crate) fn exited(&mut self) -> i32 {
        let to_daemon::Message::Exited(Exited { wait_status }) = self.hear() else {
            panic!("no Exited")
        };
        wait_status
    }

    pub(crate) fn note_exit(&mut self, evacuated: Option<&str>) {
        self.say(to_hold::Message::ExitNoted(ExitNoted {
            evacuated: evacuated.is_some(),
            checkpoint: evacuated.unwrap_or_default().to_owned(),
        }));
    }

    /// Waits for the wish of a front half, with the descriptors for the init half.
    pub(crate) fn spawn(&mut self) -> (Spawn, Vec<OwnedFd>) {
        let to_daemon::Message::Spawn(spawn) = self.hear() else {
            panic!("no Spawn")
        };
        let descriptors = self.take_descriptors();
        assert_eq!(descriptors.len(), 4);
        (spawn, descriptors)
    }
}
