//! Address spaces whose writes the kernel does not note: contents are compared.
//!
//! A page is clean if it hashes to what [was captured](Hashes::captured) of it. Whoever captures
//! must tell, since what the tracker itself reads of a running process is another moment's content:
//! a page that changes and changes back in between would be taken for what it never was.
//!
//! Each round reads all of the memory. Kept are 16 bytes for each page, for at most
//! [`Options::hashed_pages_max`](crate::Options::hashed_pages_max) pages.

use std::time::Instant;

use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_sys::{
    pidfd::Pidfd,
    vm::{RemoteMemory, VmError},
};

use crate::{
    Contents, Last, Round, Runs,
    contents::ContentHash,
    error::{TrackError, number},
    everything, select,
};

/// Pages that are read at once.
const BLOCK: usize = 64;

/// What was captured of one address space.
#[derive(Debug)]
pub(crate) struct Hashes {
    process: Pidfd,
    memory: RemoteMemory,
    contents: Contents,
    known: Runs,
}

impl Hashes {
    /// Begins with nothing captured.
    pub(crate) fn attach(process: &Pidfd) -> Result<Self, TrackError> {
        let pid = number(process);
        let process = process
            .try_clone()
            .map_err(|source| TrackError::Process { pid, source })?;
        let memory = RemoteMemory::open(process.pid()).map_err(|source| match source {
            VmError::Gone { .. } => TrackError::Gone { pid },
            source => TrackError::Memory { pid, source },
        })?;
        Ok(Self {
            process,
            memory,
            contents: Contents::new(),
            known: Runs::new(),
        })
    }

    /// What is not as it was captured. `None`: it has too many pages.
    pub(crate) fn round(&mut self, most: u64) -> Result<Option<Round>, TrackError> {
        let began = Instant::now();
        let now: Runs = select::mappings(&self.process)?
            .tracked
            .into_iter()
            .collect();
        let gone = self.known.minus(&now);
        for run in gone.as_slice() {
            self.forget(*run);
        }
        let present = everything::present(&self.process, &now)?;
        if present.pages() > most {
            return Ok(None);
        }
        let dirty = self.changed(&present)?;
        self.known = now;
        Ok(Some(Round {
            gone,
            dirty,
            tracked_pages: self.known.pages(),
            took: began.elapsed(),
            ..Round::default()
        }))
    }

    /// What is there, and what is not as it was captured.
    pub(crate) fn last(&self) -> Result<Last, TrackError> {
        let began = Instant::now();
        let now: Runs = select::mappings(&self.process)?
            .tracked
            .into_iter()
            .collect();
        let present = everything::present(&self.process, &now)?;
        let dirty = self.changed(&present)?;
        Ok(Last {
            present,
            hot: Runs::new(),
            dirty,
            took: began.elapsed(),
        })
    }

    /// A page was captured with this content.
    pub(crate) fn captured(&mut self, page: PageIndex, hash: ContentHash) {
        self.contents.set(page, hash);
    }

    /// Pages that must be captured again, or that are gone.
    pub(crate) fn forget(&mut self, run: PageRun) {
        self.contents.forget(run);
    }

    fn changed(&self, present: &Runs) -> Result<Runs, TrackError> {
        let mut buffer = vec![0; BLOCK * PAGE_BYTES];
        let mut dirty = Runs::new();
        for run in present.as_slice() {
            let mut at = run.start;
            while at < run.end() {
                let piece = PageRun::new(at, (run.end().0 - at.0).min(BLOCK as u64));
                let bytes = usize::try_from(piece.bytes()).expect("at most a block");
                match self.memory.read_runs(&[piece], &mut buffer[..bytes]) {
                    Ok(()) => dirty.extend(self.differing(piece, &buffer[..bytes])),
                    Err(VmError::Gone { pid }) => return Err(TrackError::Gone { pid }),
                    // Something in it was unmapped meanwhile.
                    Err(_) => dirty.insert(piece),
                }
                at = piece.end();
            }
        }
        Ok(dirty)
    }

    /// The pages of a run that are not known to have this content.
    fn differing<'a>(
        &'a self,
        run: PageRun,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = PageRun> + 'a {
        let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
        (run.start.0..run.end().0)
            .map(PageIndex)
            .zip(pages)
            .filter(|(page, content)| self.contents.get(*page) != Some(ContentHash::of(content)))
            .map(|(page, _)| PageRun::new(page, 1))
    }
}
