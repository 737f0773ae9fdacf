//! One address space.
//!
//! # What makes a page clean
//! The tracker keeps the set of pages that it [follows](Tracker::followed). To enter it, a mapping
//! is registered, freed of all protection that it may have from before, and scanned: so all that
//! is present in it is reported, and no page is protected that was not reported. From then on a
//! page of the set is protected only by a scan that reports it, and the kernel takes the
//! protection away with the first write. A mapping leaves the set when it is no longer there or no
//! longer of the kind that is tracked, and when a scan of it fails. So of what is in the set,
//! protected and registered at the end, the last report is older than the last write to it.
//!
//! - Something new at an old place (munmap and mmap, mremap onto it) is not registered: its scan
//!   is refused, and it enters the set anew.
//! - Moving memory beside registered memory may take away the registration of both, and leave the
//!   protection of pages behind, which means nothing then: hence the freeing.
//! - Dropped pages (`MADV_DONTNEED`) are absent, and unprotected when they come back. Holes are
//!   never protected.

use std::time::Instant;

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::{
    pagemap::{Categories, Pagemap, PagemapError, Region},
    pidfd::Pidfd,
    remote::{self, InjectError},
    uffd::{Features, Modes, Uffd},
};

use crate::{
    Last, Options, Round, Runs,
    error::{TrackError, number, pagemap_error},
    hazard::{Descriptors, Hazard, Unsettled},
    heat::Heat,
    pages::{self, NOWHERE, PRESENT, PROTECTED},
    select::{self, Mappings},
};

/// Most runs that a round reports, but for those of the mapping that it ends with.
pub const ROUND_RUNS_MAX: usize = 1 << 20;

/// How often a mapping that changes under our hands is tried in a round.
const LOOKS_MAX: u32 = 4;

/// Follows the writes of one address space.
#[derive(Debug)]
pub struct Tracker {
    process: Pidfd,
    pagemap: Pagemap,
    uffd: Uffd,
    /// Whether the kernel tells guard pages apart (6.15).
    guard: Categories,
    followed: Runs,
    heat: Heat,
    /// What was given back.
    again: Runs,
    unsettled: Unsettled,
    /// Where a round goes on that found too much.
    resume: PageIndex,
    has_userfaultfd: bool,
}

/// How a look at a mapping ended.
enum Outcome {
    Followed,
    Untracked,
}

impl Tracker {
    /// Begins to track the memory that `process` has now. Its first round reports everything.
    ///
    /// # Errors
    /// [`TrackError`], soon after the time for it at the latest. The process is as before.
    pub fn attach(process: &Pidfd, options: Options) -> Result<Self, TrackError> {
        let pid = number(process);
        let process = process
            .try_clone()
            .map_err(|source| TrackError::Process { pid, source })?;
        if Descriptors::of(&process).userfaultfd {
            return Err(TrackError::InUse { pid });
        }
        // Before the injection: if the program is replaced in between, this is void, and says so.
        let pagemap =
            Pagemap::open(process.pid()).map_err(|source| pagemap_error(&process, source))?;
        let deadline = Instant::now() + options.attach_timeout;
        let uffd =
            remote::inject_userfaultfd(&process, deadline).map_err(|source| match source {
                InjectError::Gone { .. } => TrackError::Gone { pid },
                source => TrackError::Inject { pid, source },
            })?;
        uffd.handshake(Features::TRACKING)
            .map_err(|source| TrackError::Unsupported { pid, source })?;
        let guard =
            pages::guard_category(&pagemap).map_err(|source| pagemap_error(&process, source))?;
        Ok(Self {
            process,
            pagemap,
            uffd,
            guard,
            followed: Runs::new(),
            heat: Heat::new(options.hot_after),
            again: Runs::new(),
            unsettled: Unsettled::default(),
            resume: PageIndex(0),
            has_userfaultfd: false,
        })
    }

    /// Number of the process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        number(&self.process)
    }

    /// Whether the last round found that the process has a userfaultfd of its own: it cannot use it
    /// on memory that is tracked.
    #[must_use]
    pub const fn has_userfaultfd(&self) -> bool {
        self.has_userfaultfd
    }

    /// Looks what was written since the last round.
    ///
    /// # Errors
    /// [`TrackError`]: all that was captured is void if the address space is gone, and not known
    /// to be clean otherwise.
    pub fn round(&mut self) -> Result<Round, TrackError> {
        let began = Instant::now();
        let Mappings { tracked, has_aio } = select::mappings(&self.process)?;
        let now: Runs = tracked.iter().copied().collect();
        let mut round = Round {
            gone: self.followed.minus(&now),
            tracked_pages: now.pages(),
            ..Round::default()
        };
        self.followed = self.followed.and(&now);
        self.heat.forget(&round.gone);
        let hot = self.heat.begin();
        round.hot_pages = hot.and(&now).pages();
        self.look_at_all(&tracked, &hot, &mut round)?;
        round
            .dirty
            .as_slice()
            .iter()
            .for_each(|run| self.heat.see(*run));
        self.heat.end();
        self.check_alive()?;
        self.mind_hazards(has_aio, now, &mut round)?;
        round.took = began.elapsed();
        Ok(round)
    }

    /// Pages that were reported, and could not be captured: they are dirty again.
    pub fn again(&mut self, runs: &Runs) {
        self.again = self.again.or(runs);
    }

    /// Looks what the memory of a process consists of that does not run (stopped, frozen, or traced
    /// by somebody), without changing anything.
    ///
    /// # Errors
    /// [`TrackError`].
    pub fn last(&self) -> Result<Last, TrackError> {
        let began = Instant::now();
        let Mappings { tracked, has_aio } = select::mappings(&self.process)?;
        let (mut present, mut dirty) = (Vec::new(), Vec::new());
        let query = PRESENT.reporting(Categories::WRITTEN | Categories::WPALLOWED | self.guard);
        for mapping in tracked {
            let found = |found: Region| {
                let has = |category| found.categories.contains(category);
                if self.guard != Categories::NONE && has(self.guard) {
                    return;
                }
                present.push(found.run);
                if has(Categories::WPALLOWED) && !has(Categories::WRITTEN) {
                    dirty.extend(self.followed.missing(found.run));
                } else {
                    dirty.push(found.run);
                }
            };
            let scanned = self.pagemap.scan(mapping, &query, found);
            scanned.map_err(|source| self.pagemap_error(source))?;
        }
        self.check_alive()?;
        let (present, dirty): (Runs, Runs) =
            (present.into_iter().collect(), dirty.into_iter().collect());
        let unknown = match Hazard::of(&self.process, Descriptors::of(&self.process), has_aio) {
            Hazard::Pinned => present.clone(),
            _ => self.again.or(&self.unsettled.all()).and(&present),
        };
        Ok(Last {
            dirty: dirty.or(&unknown),
            present,
            took: began.elapsed(),
        })
    }

    /// Looks at the mappings, from where the last round had to stop.
    fn look_at_all(
        &mut self,
        mappings: &[PageRun],
        hot: &Runs,
        round: &mut Round,
    ) -> Result<(), TrackError> {
        let first = mappings.partition_point(|mapping| mapping.end() <= self.resume);
        self.resume = PageIndex(0);
        let mut dirty = Vec::new();
        for mapping in mappings[first..].iter().chain(&mappings[..first]) {
            if dirty.len() >= ROUND_RUNS_MAX {
                self.resume = mapping.start;
                round.is_partial = true;
                break;
            }
            if let Outcome::Untracked = self.look(*mapping, hot, &mut dirty)? {
                round.untracked.insert(*mapping);
            }
        }
        round.dirty = dirty.into_iter().collect();
        Ok(())
    }

    /// After the scans: what may have been written past them, and what was given back.
    fn mind_hazards(
        &mut self,
        has_aio: bool,
        now: Runs,
        round: &mut Round,
    ) -> Result<(), TrackError> {
        let descriptors = Descriptors::of(&self.process);
        self.has_userfaultfd = descriptors.userfaultfd;
        let hazard = Hazard::of(&self.process, descriptors, has_aio);
        if hazard == Hazard::Pinned {
            self.followed = Runs::new();
            round.dirty = Runs::new();
            round.untracked = now;
            return Ok(());
        }
        let at = Instant::now();
        let settled = self.unsettled.settle(&self.process, at);
        self.unsettled.add(hazard, at, &round.dirty);
        let again = std::mem::take(&mut self.again).or(&settled);
        let mut present = Vec::new();
        for run in again.and(&self.followed).minus(&round.dirty).as_slice() {
            self.pagemap
                .scan(*run, &PRESENT, |found| present.push(found.run))
                .map_err(|source| self.pagemap_error(source))?;
        }
        round.dirty = round.dirty.or(&present.into_iter().collect());
        Ok(())
    }

    /// Looks at one mapping.
    fn look(
        &mut self,
        mapping: PageRun,
        hot: &Runs,
        dirty: &mut Vec<PageRun>,
    ) -> Result<Outcome, TrackError> {
        let mut fresh: Vec<PageRun> = self.followed.missing(mapping).collect();
        for _ in 0..LOOKS_MAX {
            for part in &fresh {
                if let Err(error) = self.uffd.register(*part, Modes::WRITE_PROTECT) {
                    self.check_alive()?;
                    tracing::debug!(pid = self.pid(), %error, "memory is not tracked");
                    return Ok(self.leave(mapping));
                }
            }
            if !self.free(&fresh)? {
                continue;
            }
            match self.scan(mapping, hot, dirty) {
                Ok(()) => {
                    self.followed.insert(mapping);
                    return Ok(Outcome::Followed);
                }
                // It was replaced, or lost its registration with what it was joined to. Whatever
                // the scan protected before it was refused is freed again.
                Err(PagemapError::Untracked { .. } | PagemapError::Scan { .. }) => {
                    self.followed.remove(mapping);
                    fresh = vec![mapping];
                }
                Err(source) => return Err(self.pagemap_error(source)),
            }
        }
        Ok(self.leave(mapping))
    }

    fn leave(&mut self, mapping: PageRun) -> Outcome {
        self.followed.remove(mapping);
        Outcome::Untracked
    }

    /// Takes away protection that ranges have from before. `false`: there was some, look again.
    fn free(&self, ranges: &[PageRun]) -> Result<bool, TrackError> {
        let mut was_free = true;
        for range in ranges {
            let mut protected = 0;
            self.pagemap
                .scan(*range, &PROTECTED, |found| protected += found.run.pages)
                .map_err(|source| self.pagemap_error(source))?;
            if protected > 0 {
                was_free = false;
                tracing::debug!(pid = self.pid(), %range, protected, "protected from before");
                if let Err(error) = self.uffd.unregister(*range) {
                    tracing::debug!(pid = self.pid(), %error, "memory changed meanwhile");
                }
            }
        }
        Ok(was_free)
    }

    /// Reports what was written in a mapping, but for what is hot, and protects it.
    fn scan(
        &self,
        mapping: PageRun,
        hot: &Runs,
        dirty: &mut Vec<PageRun>,
    ) -> Result<(), PagemapError> {
        let worthless = Categories::PFNZERO | self.guard;
        for part in hot.missing(mapping) {
            self.pagemap.scan_and_protect(part, worthless, |found| {
                if !found.categories.intersects(worthless) {
                    dirty.push(found.run);
                }
            })?;
        }
        Ok(())
    }

    /// Whether the address space that is tracked is still that of the process.
    fn check_alive(&self) -> Result<(), TrackError> {
        if !self.process.is_alive() {
            return Err(TrackError::Gone { pid: self.pid() });
        }
        self.pagemap
            .scan(NOWHERE, &PRESENT, |_| {})
            .map_err(|source| self.pagemap_error(source))
    }

    fn pagemap_error(&self, source: PagemapError) -> TrackError {
        pagemap_error(&self.process, source)
    }
}
