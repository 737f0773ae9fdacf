//! `pagemap-PID.img`: which pages' contents CRIU stored in `pages-N.img`.

use bytes::Bytes;
use lifeboat_proto::units::{PAGE_SIZE, PageRun, RemoteAddr};
use prost::Message;

use super::{
    ImagesError,
    frame::{Reader, Writer},
};

const MAGIC: u32 = 0x5608_4025;

/// The page is in an older image that this one builds on. Lifeboat's dumps have none.
const IN_PARENT: u32 = 1 << 0;
/// The page may be loaded later.
const LAZY: u32 = 1 << 1;
/// The page's content is in `pages-N.img`.
const PRESENT: u32 = 1 << 2;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Head {
    #[prost(uint32, required, tag = "1")]
    pub(super) pages_id: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(uint64, required, tag = "1")]
    vaddr: u64,
    /// Number of pages before CRIU 4.2; 0 since.
    #[prost(uint32, required, tag = "2")]
    compat_nr_pages: u32,
    #[prost(bool, optional, tag = "3")]
    in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    nr_pages: Option<u64>,
}

impl Entry {
    fn run(&self) -> Option<PageRun> {
        let pages = self.nr_pages.unwrap_or(u64::from(self.compat_nr_pages));
        let end = pages
            .checked_mul(PAGE_SIZE)
            .and_then(|bytes| self.vaddr.checked_add(bytes))?;
        let aligned = self.vaddr.is_multiple_of(PAGE_SIZE) && pages > 0;
        aligned.then(|| PageRun::covering(RemoteAddr(self.vaddr), RemoteAddr(end)))
    }
}

/// Whether this is the pagemap of a process (and not of shared memory).
#[must_use]
pub fn is_of_process(name: &str) -> bool {
    name.strip_prefix("pagemap-")
        .and_then(|rest| rest.strip_suffix(".img"))
        .is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|digit| digit.is_ascii_digit()))
}

/// What a pagemap says.
#[derive(Debug)]
pub(super) struct Stored {
    /// Number of the pages file.
    pub(super) pages_id: u32,
    /// The pages whose contents are in it, ascending and disjoint, adjacent ones joined.
    pub(super) runs: Vec<PageRun>,
}

impl Stored {
    pub(super) fn read(name: &str, bytes: &Bytes) -> Result<Self, ImagesError> {
        let mut runs: Vec<PageRun> = Vec::new();
        let head = for_each_entry(name, bytes, |_, run| match runs.last_mut() {
            Some(last) if last.end() == run.start => last.pages += run.pages,
            _ => runs.push(run),
        })?;
        Ok(Self {
            pages_id: head.pages_id,
            runs,
        })
    }
}

/// A pagemap of these pages, to be loaded by CRIU itself.
pub(super) fn present_file(pages_id: u32, runs: impl Iterator<Item = PageRun>) -> Bytes {
    let mut writer = Writer::new(MAGIC);
    writer.entry(&Head { pages_id });
    for run in runs {
        writer.entry(&Entry {
            vaddr: run.start.addr().0,
            compat_nr_pages: 0,
            in_parent: None,
            flags: Some(PRESENT),
            nr_pages: Some(run.pages),
        });
    }
    writer.finish()
}

/// The same pagemap with every entry marked as to be loaded by CRIU itself, before the tree runs.
///
/// A plain dump marks what may be lazy as lazy, and a lazy restore would leave it to the page
/// server, which does not have it.
///
/// # Errors
/// The file is malformed, or refers to pages that are not in this image.
pub fn present(name: &str, bytes: &Bytes) -> Result<Bytes, ImagesError> {
    let mut writer = Writer::new(MAGIC);
    let mut entries = Vec::new();
    let head = for_each_entry(name, bytes, |entry, _| {
        entries.push(Entry {
            flags: Some(PRESENT),
            ..entry
        });
    })?;
    writer.entry(&head);
    for entry in &entries {
        writer.entry(entry);
    }
    Ok(writer.finish())
}

/// Calls `with` on every entry; they are ascending, disjoint and stored in this image.
fn for_each_entry(
    name: &str,
    bytes: &Bytes,
    mut with: impl FnMut(Entry, PageRun),
) -> Result<Head, ImagesError> {
    let mut reader = Reader::new(name, bytes, MAGIC)?;
    let head = reader.required::<Head>()?;
    let mut end = None;
    while let Some(entry) = reader.entry::<Entry>()? {
        let flags = entry.flags.unwrap_or(PRESENT);
        if entry.in_parent == Some(true) || flags & IN_PARENT != 0 || flags & PRESENT == 0 {
            return Err(reader.malformed("pages that are stored in this image"));
        }
        if flags & !(LAZY | PRESENT) != 0 {
            return Err(reader.malformed("flags that CRIU 4.2 writes"));
        }
        let run = entry
            .run()
            .ok_or_else(|| reader.malformed("a range of whole pages"))?;
        if end.is_some_and(|end| end > run.start) {
            return Err(reader.malformed("ascending ranges"));
        }
        end = Some(run.end());
        with(entry, run);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use lifeboat_proto::units::PageIndex;

    use super::*;

    fn file(entries: &[(u64, u64, u32)]) -> Bytes {
        let mut writer = Writer::new(MAGIC);
        writer.entry(&Head { pages_id: 7 });
        for (page, pages, flags) in entries {
            writer.entry(&Entry {
                vaddr: page * PAGE_SIZE,
                compat_nr_pages: 0,
                in_parent: None,
                flags: Some(*flags),
                nr_pages: Some(*pages),
            });
        }
        writer.finish()
    }

    #[test]
    fn what_criu_stored_it_loads_itself() {
        let plain = file(&[
            (16, 2, LAZY | PRESENT),
            (18, 1, PRESENT),
            (30, 3, LAZY | PRESENT),
        ]);
        let changed = present("pagemap-1.img", &plain).expect("well-formed");
        assert_eq!(
            changed,
            file(&[(16, 2, PRESENT), (18, 1, PRESENT), (30, 3, PRESENT)])
        );
        let run = |start, pages| PageRun::new(PageIndex(start), pages);
        assert_eq!(
            Stored::read("pagemap-1.img", &plain).map(|stored| stored.runs),
            Ok(vec![run(16, 3), run(30, 3)])
        );
    }

    #[test]
    fn a_pagemap_of_before_4_2_is_not_read_as_empty() {
        let mut writer = Writer::new(MAGIC);
        writer.entry(&Head { pages_id: 1 });
        writer.entry(&Entry {
            vaddr: PAGE_SIZE,
            compat_nr_pages: 5,
            ..Entry::default()
        });
        let runs = Stored::read("pagemap-1.img", &writer.finish()).map(|stored| stored.runs);
        assert_eq!(runs, Ok(vec![PageRun::new(PageIndex(1), 5)]));
    }

    #[test]
    fn pages_that_are_not_in_the_image_are_an_error() {
        let bad: [&[(u64, u64, u32)]; 6] = [
            &[(1, 1, LAZY)],
            &[(1, 1, IN_PARENT)],
            &[(1, 0, PRESENT)],
            &[(1, 1, PRESENT | 1 << 9)],
            &[(5, 2, PRESENT), (6, 1, PRESENT)],
            &[(1, u64::MAX, PRESENT)],
        ];
        for entries in bad {
            assert!(
                present("pagemap-1.img", &file(entries)).is_err(),
                "{entries:?}"
            );
        }
    }

    #[test]
    fn only_pagemaps_of_processes_are_changed() {
        assert!(is_of_process("pagemap-1001.img"));
        for other in [
            "pagemap-shmem-5.img",
            "pagemap-.img",
            "pages-1.img",
            "pagemap-1",
        ] {
            assert!(!is_of_process(other), "{other}");
        }
    }
}
