//! One process of a tree: how it is tracked, and by what it is replaced when that does not work.

use std::time::{Duration, Instant};

use lifeboat_proto::units::PageIndex;
use lifeboat_sys::pidfd::Pidfd;

use crate::{
    ContentHash, Last, Mode, Options, Round, Runs, SpaceId, Tracker,
    error::{TrackError, number},
    everything,
    hashes::Hashes,
};

/// Time until a process is tried again that could not be tracked for the moment; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Longest time until a process is tried again.
const RETRY_LAST: Duration = Duration::from_secs(60);

/// A process with memory of its own.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) process: Pidfd,
    pub(crate) space: SpaceId,
    state: State,
    /// Why it is not tracked by the kernel.
    why: Option<String>,
}

#[derive(Debug)]
enum State {
    /// Not tried yet, or in vain.
    Waiting {
        until: Instant,
        failures: u32,
    },
    Tracked(Box<Tracker>),
    Hashed(Hashes),
    /// For good.
    Everything,
}

impl Member {
    pub(crate) fn new(process: Pidfd, space: SpaceId) -> Self {
        let state = State::Waiting {
            until: Instant::now(),
            failures: 0,
        };
        Self {
            process,
            space,
            state,
            why: None,
        }
    }

    pub(crate) const fn mode(&self) -> Mode {
        match self.state {
            State::Tracked(_) => Mode::WriteProtect,
            State::Hashed(_) => Mode::Hash,
            State::Waiting { .. } | State::Everything => Mode::Everything,
        }
    }

    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// A round; `may_attach`: there is time left to begin tracking.
    pub(crate) fn round(
        &mut self,
        options: Options,
        may_attach: bool,
    ) -> Result<Round, TrackError> {
        if let State::Waiting { until, failures } = self.state
            && may_attach
            && until <= Instant::now()
        {
            self.attach(options, failures)?;
        }
        if matches!(&self.state, State::Tracked(tracker) if tracker.has_userfaultfd()) {
            // Its own registrations would be refused.
            self.fall_back(&TrackError::InUse {
                pid: number(&self.process),
            })?;
        }
        match &mut self.state {
            State::Tracked(tracker) => tracker.round(),
            State::Hashed(hashes) => match hashes.round(options.hashed_pages_max)? {
                Some(round) => Ok(round),
                None => {
                    self.state = State::Everything;
                    everything::round(&self.process)
                }
            },
            State::Waiting { .. } | State::Everything => everything::round(&self.process),
        }
    }

    pub(crate) fn last(&self) -> Result<Last, TrackError> {
        match &self.state {
            State::Tracked(tracker) => tracker.last(),
            State::Hashed(hashes) => hashes.last(),
            State::Waiting { .. } | State::Everything => everything::last(&self.process),
        }
    }

    pub(crate) fn captured(&mut self, page: PageIndex, hash: ContentHash) {
        if let State::Hashed(hashes) = &mut self.state {
            hashes.captured(page, hash);
        }
    }

    pub(crate) fn cool(&mut self) {
        if let State::Tracked(tracker) = &mut self.state {
            tracker.cool();
        }
    }

    pub(crate) fn again(&mut self, runs: &Runs) {
        match &mut self.state {
            State::Tracked(tracker) => tracker.again(runs),
            State::Hashed(hashes) => runs.as_slice().iter().for_each(|run| hashes.forget(*run)),
            State::Waiting { .. } | State::Everything => {}
        }
    }

    fn attach(&mut self, options: Options, failures: u32) -> Result<(), TrackError> {
        match Tracker::attach(&self.process, options) {
            Ok(tracker) => {
                self.state = State::Tracked(Box::new(tracker));
                self.why = None;
                Ok(())
            }
            Err(error) if error.is_gone() => Err(error),
            Err(error) if error.is_transient() => {
                let wait = RETRY_FIRST
                    .saturating_mul(1 << failures.min(10))
                    .min(RETRY_LAST);
                self.state = State::Waiting {
                    until: Instant::now() + wait,
                    failures: failures + 1,
                };
                self.tell(&error);
                Ok(())
            }
            Err(error) => self.fall_back(&error),
        }
    }

    fn fall_back(&mut self, error: &TrackError) -> Result<(), TrackError> {
        self.tell(error);
        self.state = State::Hashed(Hashes::attach(&self.process)?);
        Ok(())
    }

    fn tell(&mut self, error: &TrackError) {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        tracing::warn!(
            pid = number(&self.process),
            why = text,
            "writes are not tracked"
        );
        self.why = Some(text);
    }
}
