//! The proof that every page of a process is captured exactly once.

use lifeboat_proto::units::{PageIndex, PageRun};

/// Why a set of captures is not the whole memory, or more than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoverageError {
    /// Nobody has captured this page.
    #[error("page {0} was captured by nobody")]
    Missing(PageIndex),
    /// Both have captured this page, or one of them twice.
    #[error("page {0} was captured twice")]
    Twice(PageIndex),
}

/// Checks that each page of `present` is in `ours` or in `criu`'s, and that no page is in both. All
/// are ascending and disjoint in themselves.
///
/// # Errors
/// The first page for which it is not so.
pub fn check(present: &[PageRun], ours: &[PageRun], criu: &[PageRun]) -> Result<(), CoverageError> {
    let mut both: Vec<PageRun> = ours.iter().chain(criu).copied().collect();
    both.retain(|run| !run.is_empty());
    both.sort_unstable_by_key(|run| run.start);
    for pair in both.windows(2) {
        if pair[0].end() > pair[1].start {
            return Err(CoverageError::Twice(pair[1].start));
        }
    }
    let mut captured = both.iter().peekable();
    for run in present.iter().filter(|run| !run.is_empty()) {
        let mut at = run.start;
        while at < run.end() {
            while captured.next_if(|captured| captured.end() <= at).is_some() {}
            match captured.peek() {
                Some(captured) if captured.contains(at) => at = captured.end(),
                _ => return Err(CoverageError::Missing(at)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs of the pages whose bit is set.
    fn runs(bits: u32) -> Vec<PageRun> {
        (0..32)
            .filter(|page| bits >> page & 1 == 1)
            .map(|page| PageRun::new(PageIndex(page), 1))
            .collect()
    }

    proptest! {
        #[test]
        fn it_is_whole_exactly_when_no_page_is_missing_or_twice(
            present: u32,
            ours: u32,
            criu: u32,
        ) {
            let whole = present & !(ours | criu) == 0 && ours & criu == 0;
            prop_assert_eq!(check(&runs(present), &runs(ours), &runs(criu)).is_ok(), whole);
        }
    }

    #[test]
    fn the_page_is_named() {
        let run = |start, pages| PageRun::new(PageIndex(start), pages);
        let present = [run(10, 20)];
        assert_eq!(check(&present, &[run(0, 15)], &[run(15, 20)]), Ok(()));
        assert_eq!(
            check(&present, &[run(0, 15)], &[run(16, 20)]),
            Err(CoverageError::Missing(PageIndex(15)))
        );
        assert_eq!(
            check(&present, &[run(0, 16)], &[run(15, 20)]),
            Err(CoverageError::Twice(PageIndex(15)))
        );
    }
}
