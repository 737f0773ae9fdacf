//! Putting verified content where it is missing. See [`crate::process`] for why it can only get
//! where it belongs.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_format::frame::VerifiedFrame;
use lifeboat_proto::units::{PAGE_BYTES, PageRun};
use lifeboat_sys::uffd::{Install, Obstacle};

use crate::{
    LoadError,
    figures::Figures,
    missing::{Absent, Hole},
    process::{Health, Process},
    sync::{lock, read},
};

/// How long an installer stays with a process whose mappings are being changed, before it takes up
/// other work and comes back.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long an installer waits for the next look at such a process.
const PAUSE: Duration = Duration::from_millis(1);

/// How an installation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    /// Nothing of the frame is missing that could be installed.
    All,
    /// The process is not at rest, or there is no memory: come again.
    Later,
}

/// Why installing pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Again,
    NoMemory,
    Gone,
}

/// `ENOMEM`, for the message.
const ENOMEM: i32 = rustix::io::Errno::NOMEM.raw_os_error();

impl Process {
    /// Installs what is missing of a frame. `waiting`: only where a fault waits for it.
    pub(crate) fn install(
        &self,
        frame: u32,
        content: &VerifiedFrame,
        waiting: bool,
        figures: &Figures,
    ) -> Result<Installed, LoadError> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let stop = self.install_once(frame, content, waiting, figures)?;
            let (Some(stop @ (Stop::Again | Stop::NoMemory)), false) = (stop, self.is_gone())
            else {
                return Ok(Installed::All);
            };
            let now = Instant::now();
            let mut state = lock(&self.state);
            if let Some(waited) = state.restless(true, now) {
                return Err(self.restless(stop, waited));
            }
            if now > give_up {
                return Ok(Installed::Later);
            }
            let waited = self.changed.wait_timeout(state, PAUSE);
            drop(waited);
        }
    }

    fn restless(&self, stop: Stop, waited: Duration) -> LoadError {
        let process = self.id.to_string();
        if stop == Stop::NoMemory {
            let source = Arc::new(io::Error::from_raw_os_error(ENOMEM));
            let run = PageRun::new(lifeboat_proto::units::PageIndex(0), 0);
            return LoadError::Install {
                process,
                run,
                source,
            };
        }
        LoadError::Restless { process, waited }
    }

    /// One pass under the gate.
    fn install_once(
        &self,
        frame: u32,
        content: &VerifiedFrame,
        waiting: bool,
        figures: &Figures,
    ) -> Result<Option<Stop>, LoadError> {
        let _gate = read(&self.gate);
        if self.is_gone() {
            return Ok(Some(Stop::Gone));
        }
        let holes = {
            let state = lock(&self.state);
            if waiting && state.waiting.is_empty() {
                return Ok(None);
            }
            let waits = |hole: &Hole| {
                state
                    .waiting
                    .range(hole.now.start..hole.now.end())
                    .next()
                    .is_some()
            };
            let mut holes = state.missing.holes(frame);
            holes.sort_by_key(|hole| !waits(hole));
            if waiting && !holes.first().is_some_and(waits) {
                return Ok(None);
            }
            holes
        };
        for hole in holes {
            if let Some(stop) = self.fill(frame, hole, content, figures)? {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    /// Fills one hole. The gate is held.
    fn fill(
        &self,
        frame: u32,
        hole: Hole,
        content: &VerifiedFrame,
        figures: &Figures,
    ) -> Result<Option<Stop>, LoadError> {
        let first = hole.frame_page as usize;
        let pages = hole.now.pages;
        let needed = first + usize::try_from(pages).unwrap_or(usize::MAX);
        let Some(bytes) = content.page_range(first..needed) else {
            return Err(LoadError::FrameTooShort {
                frame,
                found: content.pages(),
                needed,
            });
        };
        let part = |from: u64, count: u64| Hole {
            now: PageRun::new(hole.now.start + from, count),
            captured: hole.captured + from,
            frame_page: hole.frame_page,
        };
        let (mut done, mut step) = (0, pages);
        while done < pages {
            let count = step.min(pages - done);
            let at = usize::try_from(done).unwrap_or(usize::MAX) * PAGE_BYTES;
            let end = at + usize::try_from(count).unwrap_or(usize::MAX) * PAGE_BYTES;
            let here = part(done, count).now;
            let progress = self
                .uffd
                .copy(here.start.addr(), &bytes[at..end], Install::default())
                .map_err(|error| self.refused(here, error))?;
            let copied = (progress.bytes / PAGE_BYTES) as u64;
            if copied > 0 {
                self.note(part(done, copied), true, figures);
                done += copied;
                step = (step * 2).min(pages);
            }
            let next = part(done, 1);
            match progress.obstacle {
                None => {}
                Some(Obstacle::Exists) => {
                    self.wake(next.now);
                    self.note(next, false, figures);
                    done += 1;
                }
                Some(Obstacle::NotMapped) if count - copied > 1 => {
                    step = ((count - copied) / 2).max(1);
                }
                Some(Obstacle::NotMapped) => match self.not_mapped(next.now)? {
                    None => done += 1,
                    stop => return Ok(stop),
                },
                Some(Obstacle::Again) => return Ok(Some(Stop::Again)),
                Some(Obstacle::NoSpace) => return Ok(Some(Stop::NoMemory)),
                Some(Obstacle::ProcessGone) => {
                    self.set_gone();
                    return Ok(Some(Stop::Gone));
                }
            }
        }
        Ok(None)
    }

    fn refused(&self, run: PageRun, error: lifeboat_sys::uffd::UffdError) -> LoadError {
        LoadError::Install {
            process: self.id.to_string(),
            run,
            source: Arc::new(io::Error::other(error)),
        }
    }

    /// Pages are there. The gate is held, so that nothing was read since it was decided.
    fn note(&self, part: Hole, installed: bool, figures: &Figures) {
        use std::sync::atomic::Ordering::Relaxed;
        let captured = PageRun::new(part.captured, part.now.pages);
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.missing.installed(captured);
        if installed {
            // The kernel took it, so nothing was under way.
            state.missing.at_rest();
            state.restless(false, now);
            figures.installed_pages.fetch_add(part.now.pages, Relaxed);
        }
        if state.waiting.is_empty() && state.deferred.is_empty() {
            return;
        }
        for since in state.answered(part.now) {
            figures.waits.record(now.saturating_duration_since(since));
        }
    }

    /// The kernel knows no mapping that takes this page. `None`: go on with the next one.
    fn not_mapped(&self, page: PageRun) -> Result<Option<Stop>, LoadError> {
        match self.health() {
            Health::Restless => return Ok(Some(Stop::Again)),
            Health::Gone => return Ok(Some(Stop::Gone)),
            Health::AtRest => {}
        }
        if !self.is_registered() {
            return Ok(None);
        }
        let absent = lock(&self.state).missing.absent(page);
        match absent {
            Absent::Settled => {
                self.wake(page);
                Ok(None)
            }
            Absent::Unexplained => Err(LoadError::Unmapped {
                process: self.id.to_string(),
                run: page,
            }),
        }
    }
}
