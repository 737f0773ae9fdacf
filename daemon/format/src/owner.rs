//! What the content of a frame is, as a pack's directory tells it.

use lifeboat_proto::{
    image::{self, frame_owner::Owner},
    units::{PAGE_SIZE, PageIndex, PageRun},
};

use crate::{error::Problem, frame::FRAME_PAGES_MAX, runs::PAGE_INDEX_END, text};

/// What the content of a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameOwner {
    /// Pages of an address space, in the order of the content.
    Memory {
        /// PID of the process inside the workload's PID namespace.
        pid: u32,
        /// Ascending, disjoint.
        runs: Vec<PageRun>,
    },
    /// Pages of an object of shared memory, in the order of the content.
    SharedMemory {
        /// CRIU's identifier of the object.
        id: u64,
        /// Ascending, disjoint; counted from the beginning of the object.
        runs: Vec<PageRun>,
    },
    /// A piece of an image file of CRIU.
    Image {
        /// Name of the file.
        name: String,
        /// Offset in the file, in bytes.
        offset: u64,
    },
    /// A piece of the stream of the workload's files.
    Files {
        /// Offset in the stream, in bytes.
        offset: u64,
    },
}

impl FrameOwner {
    /// Fails unless a frame of `raw_bytes` bytes may belong to this owner.
    pub(crate) fn check(&self, raw_bytes: u64) -> Result<(), Problem> {
        match self {
            Self::Memory { runs, .. } | Self::SharedMemory { runs, .. } => {
                check_runs(runs, raw_bytes)
            }
            Self::Image { name, offset } => {
                text::check_file_name(name)?;
                check_offset(*offset, raw_bytes)
            }
            Self::Files { offset } => check_offset(*offset, raw_bytes),
        }
    }
}

fn check_runs(runs: &[PageRun], raw_bytes: u64) -> Result<(), Problem> {
    let (mut end, mut pages) = (0, 0u64);
    for run in runs {
        if run.is_empty() {
            return Err(Problem::TooSmall { found: 0, least: 1 });
        }
        if run.start.0 < end {
            return Err(Problem::NotAscending);
        }
        end = run.end().0;
        pages = pages.saturating_add(run.pages);
    }
    let most = FRAME_PAGES_MAX as u64;
    if end > PAGE_INDEX_END {
        Err(Problem::Outside)
    } else if pages > most {
        Err(Problem::TooLarge { found: pages, most })
    } else if pages * PAGE_SIZE != raw_bytes {
        Err(Problem::Differs {
            found: pages * PAGE_SIZE,
            expected: raw_bytes,
        })
    } else {
        Ok(())
    }
}

fn check_offset(offset: u64, raw_bytes: u64) -> Result<(), Problem> {
    if offset.checked_add(raw_bytes).is_some() {
        Ok(())
    } else {
        Err(Problem::Outside)
    }
}

fn pages(id: u64, runs: &[PageRun]) -> image::OwnedPages {
    let mut message = image::OwnedPages {
        id,
        ..Default::default()
    };
    let mut end = 0;
    for run in runs {
        message.start_delta.push(run.start.0 - end);
        message
            .pages
            .push(u32::try_from(run.pages).expect("runs are no longer than frames"));
        end = run.end().0;
    }
    message
}

fn runs(message: &image::OwnedPages) -> Result<Vec<PageRun>, Problem> {
    let (found, expected) = (message.pages.len(), message.start_delta.len());
    if found != expected {
        return Err(Problem::Differs {
            found: found as u64,
            expected: expected as u64,
        });
    }
    if found > FRAME_PAGES_MAX {
        return Err(Problem::TooLarge {
            found: found as u64,
            most: FRAME_PAGES_MAX as u64,
        });
    }
    let mut end = 0u64;
    let columns = message.start_delta.iter().zip(&message.pages);
    columns
        .map(|(delta, pages)| {
            let start = end.checked_add(*delta).ok_or(Problem::Outside)?;
            end = start
                .checked_add(u64::from(*pages))
                .ok_or(Problem::Outside)?;
            Ok(PageRun::new(PageIndex(start), u64::from(*pages)))
        })
        .collect()
}

impl From<&FrameOwner> for image::FrameOwner {
    /// For owners that passed the check: their runs are ascending.
    fn from(owner: &FrameOwner) -> Self {
        let owner = match owner {
            FrameOwner::Memory { pid, runs } => Owner::Memory(pages(u64::from(*pid), runs)),
            FrameOwner::SharedMemory { id, runs } => Owner::SharedMemory(pages(*id, runs)),
            FrameOwner::Image { name, offset } => Owner::Image(image::OwnedImage {
                name: name.clone(),
                offset: *offset,
            }),
            FrameOwner::Files { offset } => Owner::Files(image::OwnedFiles { offset: *offset }),
        };
        Self { owner: Some(owner) }
    }
}

impl TryFrom<&image::FrameOwner> for FrameOwner {
    type Error = Problem;

    fn try_from(message: &image::FrameOwner) -> Result<Self, Problem> {
        Ok(match message.owner.as_ref().ok_or(Problem::Missing)? {
            Owner::Memory(pages) => Self::Memory {
                pid: u32::try_from(pages.id).map_err(|_| Problem::TooLarge {
                    found: pages.id,
                    most: u64::from(u32::MAX),
                })?,
                runs: runs(pages)?,
            },
            Owner::SharedMemory(pages) => Self::SharedMemory {
                id: pages.id,
                runs: runs(pages)?,
            },
            Owner::Image(image) => Self::Image {
                name: image.name.clone(),
                offset: image.offset,
            },
            Owner::Files(files) => Self::Files {
                offset: files.offset,
            },
        })
    }
}
