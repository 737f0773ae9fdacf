//! Descriptors that keep a restored workload from running on wrong memory.
//!
//! While memory is still being loaded, the daemon sends a copy of every userfaultfd. Were the
//! daemon's the last one, its death would turn missing pages into zeros; with a copy here, a process
//! that touches one waits. A daemon that comes back in time gets the copies and goes on; else, or
//! when the journal of the load says that what is missing cannot be known, the hold ends the tree.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    time::{Duration, Instant},
};

use lifeboat_proto::{
    LOAD_JOURNAL_HEADER,
    hold::{Guard as Process, Guarded, Guarding},
};
use lifeboat_sys::fdpass;

use super::super::wire::Wire;

/// Most descriptors that are kept. A tree with more address spaces than this is ended when the
/// daemon dies while its memory is loaded.
const GUARDED_MAX: usize = 768;

/// The descriptors, while they are needed.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// On which they come.
    channel: Option<Wire>,
    journal: Option<File>,
    /// How long a daemon may be away.
    wait: Duration,
    kept: Vec<(Process, OwnedFd)>,
    /// Processes that came without a descriptor that could be kept.
    unguarded: bool,
    loading: bool,
    broken: bool,
    /// When the daemon that is away is given up.
    until: Option<Instant>,
}

impl Guard {
    /// A load begins, or is gone on with: descriptors will come.
    pub(super) fn begin(&mut self, guarding: Guarding, descriptors: Vec<OwnedFd>) {
        let pair: Result<[OwnedFd; 2], _> = descriptors.try_into();
        let (channel, journal) = match pair {
            Ok([channel, journal]) => (Wire::new(channel).ok(), Some(File::from(journal))),
            Err(_) => (None, None),
        };
        self.unguarded |= channel.is_none();
        self.channel = channel;
        self.journal = journal;
        self.wait = Duration::from_millis(guarding.wait_ms);
        self.loading = true;
    }

    /// The socket on which descriptors come, to be polled.
    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.channel.as_ref().map(Wire::socket)
    }

    /// Takes the descriptors that have come.
    pub(super) fn hear(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let received = channel.receive();
        let mut uffds = channel.take_descriptors().into_iter();
        let mut whole = !channel.lost_descriptors();
        loop {
            let process = match channel.next_message::<Process>() {
                Ok(Some(process)) => process,
                Ok(None) => break,
                Err(_) => {
                    whole = false;
                    break;
                }
            };
            match uffds.next() {
                Some(uffd) if self.kept.len() < GUARDED_MAX => self.kept.push((process, uffd)),
                _ => whole = false,
            }
        }
        // A frame is written at once, with its descriptor.
        whole &= uffds.next().is_none();
        self.unguarded |= !whole;
        if received.is_err() || !whole {
            self.channel = None;
        }
    }

    /// All memory is in.
    pub(super) fn end(&mut self) {
        *self = Self {
            broken: self.broken,
            ..Self::default()
        };
    }

    /// Whether memory is missing.
    pub(super) const fn is_loading(&self) -> bool {
        self.loading
    }

    /// The daemon has gone. Whether the tree can wait for another one.
    pub(super) fn lost(&mut self, now: Instant) -> bool {
        // What it sent last is in the socket still.
        while self.channel.is_some() {
            let before = self.kept.len();
            self.hear();
            if self.kept.len() == before && self.channel.is_some() {
                break;
            }
        }
        self.channel = None;
        let proved = self.journal.as_ref().is_some_and(is_unmarked);
        let waits = self.loading && !self.unguarded && proved && !self.wait.is_zero();
        self.until = waits.then(|| now + self.wait);
        waits
    }

    /// A daemon is about to take the load over, and may take so long again.
    pub(super) fn wait_on(&mut self, now: Instant) {
        if self.until.is_some() {
            self.until = Some(now + self.wait);
        }
    }

    /// A daemon has taken the load over.
    pub(super) const fn taken_over(&mut self) {
        self.until = None;
    }

    /// When the daemon that is away is given up.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// How long a daemon may be away.
    pub(super) const fn wait(&self) -> Duration {
        self.wait
    }

    /// Number of descriptors that a new daemon needs.
    pub(super) fn count(&self) -> usize {
        if self.loading { self.kept.len() } else { 0 }
    }

    /// Copies for a new daemon, in frames.
    pub(super) fn copies(&self) -> impl Iterator<Item = std::io::Result<(Guarded, Vec<OwnedFd>)>> {
        self.kept[..self.count()]
            .chunks(fdpass::FDS_MAX)
            .map(|part| {
                let processes = part.iter().map(|(process, _)| *process).collect();
                let uffds = part.iter().map(|(_, uffd)| uffd.try_clone());
                Ok((Guarded { processes }, uffds.collect::<Result<_, _>>()?))
            })
    }

    /// The daemon has gone for good, or says that memory cannot be had. `true`: the tree cannot go
    /// on.
    pub(super) const fn give_up(&mut self) -> bool {
        self.broken |= self.loading;
        self.until = None;
        self.loading
    }

    /// Whether the tree was ended for this reason.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }
}

/// Whether a journal tells all that its daemon knew.
fn is_unmarked(journal: &File) -> bool {
    let mut header = [0; LOAD_JOURNAL_HEADER.len() + 1];
    let read = journal.read_exact_at(&mut header, 0);
    read.is_ok() && header.strip_prefix(LOAD_JOURNAL_HEADER) == Some(&[0])
}
