//! `mm-PID.img`: the mappings of a process.

use lifeboat_proto::units::{PAGE_SIZE, PageRun, RemoteAddr};
use prost::Message;

use super::{ImageSet, ImagesError, frame::Reader};

const MAGIC: u32 = 0x5749_2820;

/// `MAP_*` of mmap(2) as CRIU stores them.
const MAP_PRIVATE: u32 = 0x02;
const MAP_DROPPABLE: u32 = 0x08;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_LOCKED: u32 = 0x2000;
const MAP_HUGETLB: u32 = 0x4_0000;

/// CRIU's `VMA_AREA_*`.
const AREA_VSYSCALL: u32 = 1 << 2;
const AREA_VDSO: u32 = 1 << 3;
const AREA_VVAR: u32 = 1 << 12;
const AREA_GUARD: u32 = 1 << 16;

#[derive(Clone, PartialEq, Message)]
struct Mm {
    #[prost(message, repeated, tag = "14")]
    vmas: Vec<Vma>,
}

#[derive(Clone, PartialEq, Message)]
struct Vma {
    #[prost(uint64, required, tag = "1")]
    start: u64,
    #[prost(uint64, required, tag = "2")]
    end: u64,
    #[prost(uint64, required, tag = "4")]
    shmid: u64,
    #[prost(uint32, required, tag = "5")]
    prot: u32,
    #[prost(uint32, required, tag = "6")]
    flags: u32,
    #[prost(uint32, required, tag = "7")]
    status: u32,
    #[prost(uint64, optional, tag = "9")]
    madv: Option<u64>,
}

/// A mapping of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its pages.
    pub run: PageRun,
    /// `PROT_*` of mmap(2).
    pub protection: u32,
    /// `MAP_*` of mmap(2).
    pub flags: u32,
    /// CRIU's classification (`VMA_*`).
    pub status: u32,
    /// CRIU's identifier of the shared memory object, or of the file.
    pub object: u64,
    /// A bit mask of `MADV_*` numbers.
    pub advice: u64,
    /// Whether a lazy restore registers it with the process's userfaultfd: private, anonymous, not
    /// locked, not of huge pages.
    pub lazy: bool,
    /// Whether the kernel may drop its pages at any time (`MAP_DROPPABLE`). CRIU does so.
    pub droppable: bool,
    /// Whether it is private and of huge pages (`MAP_HUGETLB`). CRIU 4.2 seeks in the page file to
    /// fill it, which a streamed image does not allow: with content, it cannot be restored.
    pub private_huge: bool,
}

impl Vma {
    fn is_lazy(&self) -> bool {
        let wanted = MAP_ANONYMOUS | MAP_PRIVATE;
        let unwanted = MAP_LOCKED | MAP_HUGETLB;
        self.flags & wanted == wanted
            && self.flags & unwanted == 0
            && self.status & (AREA_VSYSCALL | AREA_VDSO | AREA_VVAR) == 0
    }
}

/// Mappings, ascending. Guard regions, which CRIU lists as mappings of their own, are left out.
pub(super) fn mappings(images: &ImageSet, pid: u32) -> Result<Vec<Mapping>, ImagesError> {
    let name = format!("mm-{pid}.img");
    let mut reader = Reader::new(&name, images.required(&name)?, MAGIC)?;
    let mm = reader.required::<Mm>()?;
    let mut mappings: Vec<Mapping> = Vec::with_capacity(mm.vmas.len());
    for vma in mm.vmas.iter().filter(|vma| vma.status & AREA_GUARD == 0) {
        let aligned = vma.start.is_multiple_of(PAGE_SIZE) && vma.end.is_multiple_of(PAGE_SIZE);
        let run = PageRun::covering(RemoteAddr(vma.start), RemoteAddr(vma.end));
        let after_last = mappings
            .last()
            .is_none_or(|last| last.run.end() <= run.start);
        if !aligned || vma.start >= vma.end || !after_last {
            return Err(reader.malformed("ascending mappings of whole pages"));
        }
        mappings.push(Mapping {
            run,
            protection: vma.prot,
            flags: vma.flags,
            status: vma.status,
            object: vma.shmid,
            advice: vma.madv.unwrap_or(0),
            lazy: vma.is_lazy(),
            droppable: vma.flags & MAP_DROPPABLE != 0,
            private_huge: vma.flags & (MAP_PRIVATE | MAP_HUGETLB) == MAP_PRIVATE | MAP_HUGETLB,
        });
    }
    Ok(mappings)
}
