//! Shared memory objects of which Lifeboat has captured pages itself.
//!
//! CRIU fills shared memory before the tree runs, from `pagemap-shmem-INODE.img` and the pages file
//! that it names. So pages that were hidden at the dump ([`crate::DumpDelegate::hidden_object`])
//! are put into both files when CRIU reads them.

use bytes::Bytes;
use lifeboat_proto::units::{PageIndex, PageRun};

use super::{
    ImagesError,
    pagemap::{Stored, present_file},
};

/// Longest entry that is written, in pages: CRIU reads each in one go.
const ENTRY_PAGES_MAX: u64 = 1 << 16;

/// Name of the pagemap of an object.
#[must_use]
pub fn pagemap_name(id: u64) -> String {
    format!("pagemap-shmem-{id}.img")
}

/// Both files of one object, with Lifeboat's pages in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Contents of `pagemap-shmem-INODE.img`.
    pub pagemap: Bytes,
    /// Name of the pages file.
    pub pages_name: String,
    /// What is in the pages file, in order. CRIU's own pages follow each other in its own file as
    /// they do here.
    pub pieces: Vec<Piece>,
}

/// Adjacent pages in a pages file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next pages of CRIU's own file.
    Criu(PageRun),
    /// Pages that Lifeboat has (numbered from the object's beginning).
    Ours(PageRun),
}

impl Piece {
    /// The pages.
    #[must_use]
    pub fn run(&self) -> PageRun {
        match self {
            Self::Criu(run) | Self::Ours(run) => *run,
        }
    }
}

/// Puts `ours` (ascending and disjoint) into the pagemap `name`.
///
/// # Errors
/// The pagemap is malformed, or has a page that is in `ours` too.
pub fn merge(name: &str, pagemap: &Bytes, ours: &[PageRun]) -> Result<Merged, ImagesError> {
    let Stored { pages_id, runs } = Stored::read(name, pagemap)?;
    let criu = runs.into_iter().map(Piece::Criu);
    let ours = ours
        .iter()
        .filter(|run| !run.is_empty())
        .map(|run| Piece::Ours(*run));
    let mut pieces: Vec<Piece> = criu.chain(ours).flat_map(split).collect();
    pieces.sort_by_key(|piece| piece.run().start);
    if pieces
        .windows(2)
        .any(|pair| pair[0].run().end() > pair[1].run().start)
    {
        let what = "no pages that were captured elsewhere too";
        return Err(ImagesError::Malformed {
            name: name.to_owned(),
            offset: 0,
            what,
        });
    }
    let runs = pieces.iter().map(Piece::run);
    Ok(Merged {
        pagemap: present_file(pages_id, runs),
        pages_name: format!("pages-{pages_id}.img"),
        pieces,
    })
}

/// In parts of at most [`ENTRY_PAGES_MAX`] pages.
fn split(piece: Piece) -> impl Iterator<Item = Piece> {
    let run = piece.run();
    (0..run.pages.div_ceil(ENTRY_PAGES_MAX)).map(move |part| {
        let start = PageIndex(run.start.0 + part * ENTRY_PAGES_MAX);
        let part = PageRun::new(start, ENTRY_PAGES_MAX.min(run.end().0 - start.0));
        match piece {
            Piece::Criu(_) => Piece::Criu(part),
            Piece::Ours(_) => Piece::Ours(part),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, pages: u64) -> PageRun {
        PageRun::new(PageIndex(start), pages)
    }

    #[test]
    fn both_files_have_all_pages_in_order() {
        let own = present_file(7, [run(2, 3), run(10, 1)].into_iter());
        let merged = merge("pagemap-shmem-5.img", &own, &[run(0, 2), run(5, 5)]).expect("apart");
        assert_eq!(merged.pages_name, "pages-7.img");
        let wanted = [
            Piece::Ours(run(0, 2)),
            Piece::Criu(run(2, 3)),
            Piece::Ours(run(5, 5)),
            Piece::Criu(run(10, 1)),
        ];
        assert_eq!(merged.pieces, wanted);
        let again = Stored::read("pagemap-shmem-5.img", &merged.pagemap).expect("well-formed");
        assert_eq!((again.pages_id, again.runs), (7, vec![run(0, 11)]));
    }

    #[test]
    fn a_page_that_both_have_is_an_error() {
        let own = present_file(7, [run(2, 3)].into_iter());
        assert!(merge("pagemap-shmem-5.img", &own, &[run(4, 1)]).is_err());
    }

    #[test]
    fn long_runs_are_read_in_parts() {
        let own = present_file(1, std::iter::empty());
        let merged = merge(
            "pagemap-shmem-5.img",
            &own,
            &[run(1, ENTRY_PAGES_MAX * 2 + 1)],
        );
        let pieces = merged.expect("apart").pieces;
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[2], Piece::Ours(run(1 + ENTRY_PAGES_MAX * 2, 1)));
    }
}
