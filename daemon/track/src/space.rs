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
//! - A mapping that is registered is one mapping for its program still, which `mremap` and others
//!   insist on. The list of mappings is older than that, so the kernel is asked just before whether
//!   the mapping is still as listed: registering a part of one would cut it in two, until the next
//!   round joins the parts again.
//! - Dropped pages (`MADV_DONTNEED`) are absent, and unprotected when they come back. Holes are
//!   never protected.

use std::time::Instant;

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::{
    maps::Extents,
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

/// Pages scanned before it is looked whether the report is long enough. At most half as many runs
/// come out of them.
const PIECE: u64 = 1 << 17;

/// How often a mapping that changes under our hands is tried in a round.
const LOOKS_MAX: u32 = 4;

/// Follows the writes of one address space.
#[derive(Debug)]
pub struct Tracker {
    process: Pidfd,
    pagemap: Pagemap,
    extents: Option<Extents>,
    uffd: Uffd,
    /// Whether the kernel tells guard pages apart (6.15).
    guard: Categories,
    followed: Runs,
    heat: Heat,
    /// What was given back.
    again: Runs,
    unsettled: Unsettled,
    round_runs_max: usize,
    /// Where a round goes on that found too much.
    resume: PageIndex,
    has_userfaultfd: bool,
}

/// How a look at a mapping ended.
enum Outcome {
    Followed,
    Untracked,
    /// The report was long enough before this page.
    Full(PageIndex),
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
            extents: Extents::open(process.pid()).ok(),
            process,
            pagemap,
            uffd,
            guard,
            followed: Runs::new(),
            heat: Heat::new(options.hot_after),
            again: Runs::new(),
            unsettled: Unsettled::default(),
            round_runs_max: options.round_runs_max,
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

    /// Leaves nothing out of the next round, however often it was written lately.
    pub fn cool(&mut self) {
        self.heat.cool();
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
        let (mut present, mut dirty) = (Runs::new(), Runs::new());
        let query = PRESENT.reporting(Categories::WRITTEN | Categories::WPALLOWED | self.guard);
        for mapping in tracked {
            let found = |found: Region| {
                let has = |category| found.categories.contains(category);
                if self.guard != Categories::NONE && has(self.guard) {
                    return;
                }
                present.insert(found.run);
                if has(Categories::WPALLOWED) && !has(Categories::WRITTEN) {
                    dirty.extend(self.followed.missing(found.run));
                } else {
                    dirty.insert(found.run);
                }
            };
            let scanned = self.pagemap.scan(mapping, &query, found);
            scanned.map_err(|source| self.pagemap_error(source))?;
        }
        self.check_alive()?;
        let unknown = match Hazard::of(&self.process, Descriptors::of(&self.process), has_aio) {
            Hazard::Pinned => present.clone(),
            _ => self.again.or(&self.unsettled.all()).and(&present),
        };
        Ok(Last {
            dirty: dirty.or(&unknown),
            hot: self.heat.hot().and(&present),
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
        let mut dirty = Runs::new();
        for (mapping, part) in in_turn(mappings, self.resume) {
            match self.look(mapping, part, hot, &mut dirty)? {
                Outcome::Followed => {}
                Outcome::Untracked => round.untracked.insert(part),
                Outcome::Full(page) => {
                    self.resume = page;
                    round.is_partial = true;
                    break;
                }
            }
        }
        if !round.is_partial {
            self.resume = PageIndex(0);
        }
        round.dirty = dirty;
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
        let mut present = Runs::new();
        for run in again.and(&self.followed).minus(&round.dirty).as_slice() {
            self.pagemap
                .scan(*run, &PRESENT, |found| present.insert(found.run))
                .map_err(|source| self.pagemap_error(source))?;
        }
        round.dirty = round.dirty.or(&present);
        Ok(())
    }

    /// Looks at a part of a mapping.
    fn look(
        &mut self,
        mapping: PageRun,
        part: PageRun,
        hot: &Runs,
        dirty: &mut Runs,
    ) -> Result<Outcome, TrackError> {
        let mut is_new = self.followed.within(mapping).next().is_none();
        for _ in 0..LOOKS_MAX {
            if is_new {
                // Registered, freed and lost as a whole: so that it stays one mapping for the
                // program, and because what has lost its registration shows in no other way.
                self.followed.remove(mapping);
                if !self.is_still(mapping) {
                    return Ok(Outcome::Untracked);
                }
                if let Err(error) = self.uffd.register(mapping, Modes::WRITE_PROTECT) {
                    self.check_alive()?;
                    tracing::debug!(pid = self.pid(), %error, "memory is not tracked");
                    return Ok(Outcome::Untracked);
                }
            }
            let range = if is_new { mapping } else { part };
            is_new = true;
            if !self.free(range)? {
                continue;
            }
            // Refused: it was replaced, or has lost its registration with what it was joined to.
            // Whatever was protected until then is freed when it is tried again.
            match self.scan(part, hot, dirty) {
                Ok(end) => {
                    self.followed
                        .insert(PageRun::new(part.start, end.0 - part.start.0));
                    let is_whole = end == part.end();
                    return Ok(if is_whole {
                        Outcome::Followed
                    } else {
                        Outcome::Full(end)
                    });
                }
                Err(PagemapError::Untracked { .. } | PagemapError::Scan { .. }) => {}
                Err(source) => return Err(self.pagemap_error(source)),
            }
        }
        self.followed.remove(mapping);
        Ok(Outcome::Untracked)
    }

    /// Whether a mapping is still as it was listed. Where the kernel does not tell, it is.
    fn is_still(&self, mapping: PageRun) -> bool {
        let now = self
            .extents
            .as_ref()
            .and_then(|extents| extents.at(mapping.start).ok());
        now.is_none_or(|now| now == Some(mapping))
    }

    /// Takes away protection from before that is in a part of a mapping that is not followed.
    /// `false`: there was some, and the mapping is no longer registered.
    fn free(&mut self, mapping: PageRun) -> Result<bool, TrackError> {
        let mut protected = 0;
        for fresh in self.followed.missing(mapping) {
            self.pagemap
                .scan(fresh, &PROTECTED, |found| protected += found.run.pages)
                .map_err(|source| self.pagemap_error(source))?;
        }
        if protected == 0 {
            return Ok(true);
        }
        tracing::debug!(pid = self.pid(), %mapping, protected, "protected from before");
        if let Err(error) = self.uffd.unregister(mapping) {
            tracing::debug!(pid = self.pid(), %error, "memory changed meanwhile");
        }
        Ok(false)
    }

    /// Reports what was written in a part of a mapping, but for what is hot, and protects it.
    /// Returns where it stopped.
    fn scan(&self, part: PageRun, hot: &Runs, dirty: &mut Runs) -> Result<PageIndex, PagemapError> {
        let worthless = Categories::PFNZERO | self.guard;
        let mut at = part.start;
        while at < part.end() {
            if dirty.as_slice().len() >= self.round_runs_max {
                break;
            }
            let piece = PageRun::new(at, PIECE.min(part.end().0 - at.0));
            for cold in hot.missing(piece) {
                self.pagemap.scan_and_protect(cold, worthless, |found| {
                    if !found.categories.intersects(worthless) {
                        dirty.insert(found.run);
                    }
                })?;
            }
            at = piece.end();
        }
        Ok(at)
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

/// The mappings in ascending order, beginning at a page and ending before it; each with the part of
/// it that is meant.
fn in_turn(mappings: &[PageRun], first: PageIndex) -> impl Iterator<Item = (PageRun, PageRun)> {
    let from = PageRun::new(first, u64::MAX - first.0);
    let before = PageRun::new(PageIndex(0), first.0);
    let parts = move |turn: PageRun| {
        let part = move |mapping: &PageRun| Some((*mapping, mapping.intersection(turn)?));
        mappings.iter().filter_map(part)
    };
    parts(from).chain(parts(before))
}
