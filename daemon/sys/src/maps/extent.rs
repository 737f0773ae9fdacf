//! The present extent of one mapping (`PROCMAP_QUERY` on `/proc/PID/maps`, kernel 6.11), which costs
//! a microsecond where reading the list costs one for each mapping.

use std::{fs::File, io};

use lifeboat_proto::units::{PageIndex, PageRun};
use rustix::process::Pid;

use crate::ioctl;

/// `struct procmap_query` (linux/fs.h).
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const PROCMAP_QUERY: u32 = ioctl::iowr(b'f', 17, size_of::<Query>());

/// Tells the extents of mappings of an address space.
#[derive(Debug)]
pub struct Extents(File);

impl Extents {
    /// Of the address space that `pid` has now.
    ///
    /// # Errors
    /// The process is gone, or may not be looked at.
    pub fn open(pid: Pid) -> io::Result<Self> {
        File::open(format!("/proc/{}/maps", pid.as_raw_nonzero())).map(Self)
    }

    /// The mapping that `page` is in; `None`: there is none.
    ///
    /// # Errors
    /// ENOTTY before kernel 6.11; ESRCH when the address space is gone.
    pub fn at(&self, page: PageIndex) -> io::Result<Option<PageRun>> {
        let mut query = Query {
            size: size_of::<Query>() as u64,
            query_addr: page.addr().0,
            ..Query::default()
        };
        // SAFETY: the struct is that of the request, of the size that it says; both buffers in it
        // are declared empty, so that the kernel writes nowhere else.
        match unsafe { ioctl::call(&self.0, PROCMAP_QUERY, &mut query) } {
            Ok(_) => {
                let (start, end) = (query.vma_start, query.vma_end);
                let [start, end] = [start, end].map(lifeboat_proto::units::RemoteAddr);
                Ok(Some(PageRun::covering(start, end)))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extent_is_that_of_the_list() {
        let pid = rustix::process::getpid();
        let extents = Extents::open(pid).unwrap();
        let stack = crate::maps::read(pid)
            .unwrap()
            .into_iter()
            .find(|mapping| mapping.name == b"[vdso]")
            .unwrap()
            .run;
        match extents.at(stack.start) {
            Ok(found) => assert_eq!(found, Some(stack)),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
        }
        assert!(!matches!(extents.at(PageIndex(0)), Ok(Some(_))));
    }
}
