//! The proof before a commit: every page of the frozen tree is in the checkpoint, exactly once.
//!
//! The kernel is asked anew which pages each process has. Each of them must be either in CRIU's
//! images or in a range that Lifeboat captured, and in no case in both. A captured range must lie in
//! mappings that a restore registers with a userfaultfd: elsewhere nobody would notice that its
//! pages are missing.

use lifeboat_criu::{ImageSet, images::{ImagesError, Mapping}};
use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::pagemap::{Pagemap, PagemapError, Query};

use super::memory::{self, Space};

/// All that a process of x86-64 can map: 47 bits less the guard page at the end (`TASK_SIZE`). The
/// kernel refuses to look beyond.
const ADDRESS_SPACE: PageRun = PageRun { start: PageIndex(0), pages: (1 << 35) - 1 };

/// Why a checkpoint is not whole. The workload runs on.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// CRIU's images cannot be understood.
    #[error("check the image files")]
    Images(#[source] ImagesError),
    /// The kernel did not tell.
    #[error("check the pages of process {pid}")]
    Pagemap {
        /// The process, inside.
        pid: u32,
        /// What went wrong.
        #[source]
        source: PagemapError,
    },
    /// Pages are in neither.
    #[error("pages {run} of process {pid} (inside) are in no part of the checkpoint")]
    Uncovered {
        /// The process, inside.
        pid: u32,
        /// The first such pages.
        run: PageRun,
    },
    /// Pages are in both.
    #[error("pages {run} of process {pid} (inside) are in two parts of the checkpoint")]
    Twice {
        /// The process, inside.
        pid: u32,
        /// The first such pages.
        run: PageRun,
    },
    /// Pages were captured where a restore could not fill them in.
    #[error("pages {run} of process {pid} (inside) lie in a mapping that cannot be loaded lazily")]
    NotLazy {
        /// The process, inside.
        pid: u32,
        /// The first such pages.
        run: PageRun,
    },
    /// A process has memory that nobody asked about.
    #[error("process {pid} (inside) was dumped without being captured")]
    Missed {
        /// The process, inside.
        pid: u32,
    },
}

/// Checks all processes of the tree.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(images: &ImageSet, spaces: &[Space]) -> Result<(), ProofError> {
    for task in images.tasks().map_err(ProofError::Images)? {
        if task.zombie {
            continue;
        }
        let pid = task.pid;
        let space = spaces
            .iter()
            .find(|space| space.inner_pid == pid)
            .ok_or(ProofError::Missed { pid })?;
        check_space(images, space)?;
    }
    Ok(())
}

fn check_space(images: &ImageSet, space: &Space) -> Result<(), ProofError> {
    let pid = space.inner_pid;
    let mappings = images.mappings(pid).map_err(ProofError::Images)?;
    let by_criu = images.captured_by_criu(pid).map_err(ProofError::Images)?;
    if let Some(run) = first_common(&by_criu, &space.captured) {
        return Err(ProofError::Twice { pid, run });
    }
    if let Some(run) = first_not_lazy(&space.captured, &mappings) {
        return Err(ProofError::NotLazy { pid, run });
    }
    let covered = merge(&by_criu, &space.captured);
    let number = memory::number(space.pid).map_err(|_| ProofError::Missed { pid })?;
    let pagemap = Pagemap::open(number).map_err(|source| ProofError::Pagemap { pid, source })?;
    let mut uncovered = None;
    pagemap
        .scan(ADDRESS_SPACE, &Query::DUMPABLE, |region| {
            if uncovered.is_none() {
                uncovered = first_outside(region.run, &covered);
            }
        })
        .map_err(|source| ProofError::Pagemap { pid, source })?;
    match uncovered {
        None => Ok(()),
        Some(run) => Err(ProofError::Uncovered { pid, run }),
    }
}

fn first_not_lazy(captured: &[PageRun], mappings: &[Mapping]) -> Option<PageRun> {
    let lazy: Vec<PageRun> =
        mappings.iter().filter(|mapping| mapping.lazy).map(|mapping| mapping.run).collect();
    let lazy = merge(&lazy, &[]);
    captured.iter().find_map(|run| first_outside(*run, &lazy))
}

/// The first pages of `run` that are in none of `covered` (ascending, disjoint, merged).
fn first_outside(run: PageRun, covered: &[PageRun]) -> Option<PageRun> {
    let mut at = run.start;
    let from = covered.partition_point(|one| one.end() <= run.start);
    for one in &covered[from..] {
        if one.start > at {
            break;
        }
        at = at.max(one.end());
        if at >= run.end() {
            return None;
        }
    }
    (at < run.end()).then(|| PageRun::new(at, run.end().0 - at.0))
}

fn first_common(a: &[PageRun], b: &[PageRun]) -> Option<PageRun> {
    a.iter().find_map(|one| {
        let from = b.partition_point(|other| other.end() <= one.start);
        b[from..].first().and_then(|other| one.intersection(*other))
    })
}

/// The pages of both, ascending and disjoint, adjacent runs merged.
fn merge(a: &[PageRun], b: &[PageRun]) -> Vec<PageRun> {
    let mut all: Vec<PageRun> = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    let mut merged: Vec<PageRun> = Vec::with_capacity(all.len());
    for run in all {
        match merged.last_mut() {
            Some(last) if run.start <= last.end() => {
                let end = last.end().max(run.end());
                last.pages = end.0 - last.start.0;
            }
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl Strategy<Value = Vec<PageRun>> {
        prop::collection::vec((0u64..200, 1u64..20), 0..12).prop_map(|all| {
            let all: Vec<PageRun> =
                all.into_iter().map(|(start, pages)| PageRun::new(PageIndex(start), pages)).collect();
            merge(&all, &[])
        })
    }

    fn has(runs: &[PageRun], page: u64) -> bool {
        runs.iter().any(|run| run.contains(PageIndex(page)))
    }

    proptest! {
        #[test]
        fn what_is_outside_is_found_page_by_page(
            covered in runs(), start in 0u64..220, pages in 1u64..30,
        ) {
            let run = PageRun::new(PageIndex(start), pages);
            let expected = (start..start + pages).find(|page| !has(&covered, *page));
            let found = first_outside(run, &covered).map(|run| run.start.0);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn common_pages_are_found(a in runs(), b in runs()) {
            let expected = (0..240).any(|page| has(&a, page) && has(&b, page));
            prop_assert_eq!(first_common(&a, &b).is_some(), expected);
        }
    }
}
