//! Address spaces whose writes the kernel does not note: contents are compared.
//!
//! A page is clean if it hashes to what [was captured](Hashes::captured) of it. Whoever captures
//! must tell, since what the tracker itself reads of a running process is another moment's content:
//! a page that changes and changes back in between would be taken for what it never was.
//!
//! Each round reads all of the memory. Kept are 16 bytes for each page, for at most
//! [`Options::hashed_pages_max`](crate::Options::hashed_pages_max) pages.

use std::{collections::BTreeMap, time::Instant};

use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use lifeboat_sys::{
    pidfd::Pidfd,
    vm::{RemoteMemory, VmError},
};

use crate::{
    Last, Round, Runs,
    error::{TrackError, number},
    everything, select,
};

/// Pages whose hashes are kept together, and that are read at once.
const BLOCK: usize = 64;

/// The first half of a BLAKE3 hash, which no two contents that occur share.
type Hash = [u8; 16];

/// What was captured of one address space.
#[derive(Debug)]
pub(crate) struct Hashes {
    process: Pidfd,
    memory: RemoteMemory,
    blocks: BTreeMap<u64, Box<[Option<Hash>; BLOCK]>>,
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
            blocks: BTreeMap::new(),
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
            dirty,
            took: began.elapsed(),
        })
    }

    /// The content of a run was captured: these bytes.
    pub(crate) fn captured(&mut self, run: PageRun, bytes: &[u8]) {
        for (page, content) in (run.start.0..run.end().0).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let (block, at) = place(page);
            let hashes = self
                .blocks
                .entry(block)
                .or_insert_with(|| Box::new([None; BLOCK]));
            hashes[at] = Some(hash(content));
        }
    }

    /// Pages that must be captured again, or that are gone.
    pub(crate) fn forget(&mut self, run: PageRun) {
        let inside = place(run.start.0).0..=place(run.end().0.saturating_sub(1)).0;
        for (block, hashes) in self.blocks.range_mut(inside) {
            for (page, known) in (block * BLOCK as u64..).zip(hashes.iter_mut()) {
                if run.contains(PageIndex(page)) {
                    *known = None;
                }
            }
        }
        self.blocks
            .retain(|_, hashes| hashes.iter().any(Option::is_some));
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
        let pages = (run.start.0..run.end().0).zip(bytes.chunks_exact(PAGE_BYTES));
        pages
            .filter(|(page, content)| self.known_hash(*page) != Some(hash(content)))
            .map(|(page, _)| PageRun::new(PageIndex(page), 1))
    }

    fn known_hash(&self, page: u64) -> Option<Hash> {
        let (block, at) = place(page);
        self.blocks.get(&block)?[at]
    }
}

/// The block of a page, and its place there.
fn place(page: u64) -> (u64, usize) {
    let at = usize::try_from(page % BLOCK as u64).expect("less than a block");
    (page / BLOCK as u64, at)
}

fn hash(content: &[u8]) -> Hash {
    let mut half = Hash::default();
    half.copy_from_slice(&blake3::hash(content).as_bytes()[..16]);
    half
}
