//! The small image files of one dump, in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_proto::units::PageRun;

use super::{
    AllowedCredentials, Clocks, CpuInfo, Mapping, OpenFile, Task, files, limits, machine, memory,
    pagemap, shared, tree,
};

/// Why an image could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImagesError {
    /// A file that must be there is not.
    #[error("image file {name} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A file does not have the form that CRIU 4.2 gives it.
    #[error("image file {name} is malformed at byte {offset}: {what}")]
    Malformed {
        /// Its name.
        name: String,
        /// Where.
        offset: usize,
        /// What was expected.
        what: &'static str,
    },
    /// The image asks for more than the workload may have.
    #[error("process {pid} asks for {what}, which its workload does not have")]
    NotAllowed {
        /// PID in the image.
        pid: u32,
        /// What it asks for.
        what: String,
    },
}

/// The small image files of one dump, by name.
#[derive(Clone, Debug, Default)]
pub struct ImageSet {
    files: BTreeMap<String, Bytes>,
}

impl ImageSet {
    /// Adds (or replaces) a file.
    pub fn insert(&mut self, name: impl Into<String>, bytes: Bytes) {
        self.files.insert(name.into(), bytes);
    }

    /// A file's bytes.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.files.get(name)
    }

    /// The files' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A file that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&Bytes, ImagesError> {
        self.get(name).ok_or_else(|| ImagesError::Missing {
            name: name.to_owned(),
        })
    }

    /// The processes, the first one first and parents before children.
    ///
    /// # Errors
    /// `pstree.img` or a `core-PID.img` is missing or malformed.
    pub fn tasks(&self) -> Result<Vec<Task>, ImagesError> {
        tree::tasks(self)
    }

    /// Where the threads of a process have registered restartable sequences (rseq(2)): address and
    /// size, in bytes. The kernel writes there whenever a thread of a frozen process runs for
    /// somebody else.
    ///
    /// # Errors
    /// A `core-TID.img` is missing or malformed.
    pub fn rseq_areas(&self, task: &Task) -> Result<Vec<(u64, u32)>, ImagesError> {
        tree::rseq_areas(self, task)
    }

    /// Mappings of a process, ascending.
    ///
    /// # Errors
    /// `mm-PID.img` is missing or malformed.
    pub fn mappings(&self, pid: u32) -> Result<Vec<Mapping>, ImagesError> {
        memory::mappings(self, pid)
    }

    /// Pages of a process whose contents CRIU wrote itself, ascending and disjoint.
    ///
    /// # Errors
    /// `pagemap-PID.img` is missing or malformed.
    pub fn captured_by_criu(&self, pid: u32) -> Result<Vec<PageRun>, ImagesError> {
        let name = format!("pagemap-{pid}.img");
        Ok(pagemap::Stored::read(&name, self.required(&name)?)?.runs)
    }

    /// Pages of a shared memory object whose contents CRIU wrote itself, ascending and disjoint.
    ///
    /// # Errors
    /// `pagemap-shmem-ID.img` is missing or malformed.
    pub fn shared_by_criu(&self, id: u64) -> Result<Vec<PageRun>, ImagesError> {
        let name = shared::pagemap_name(id);
        Ok(pagemap::Stored::read(&name, self.required(&name)?)?.runs)
    }

    /// Everything that the processes have open or mapped, working directories and roots included.
    ///
    /// # Errors
    /// `files.img` is missing or malformed.
    pub fn open_files(&self) -> Result<Vec<OpenFile>, ImagesError> {
        files::open_files(self)
    }

    /// Bytes that were in a pipe, unread, by the pipe's inode (its low 32 bits).
    ///
    /// # Errors
    /// `pipes-data.img` is malformed.
    pub fn pipe_data(&self) -> Result<BTreeMap<u32, Bytes>, ImagesError> {
        files::pipe_data(self)
    }

    /// The tree's clocks at the dump.
    ///
    /// # Errors
    /// `timens-N.img` is missing or malformed.
    pub fn clocks(&self) -> Result<Clocks, ImagesError> {
        machine::clocks(self)
    }

    /// The CPU of the dump; `None`: the image does not say.
    ///
    /// # Errors
    /// `cpuinfo.img` is malformed.
    pub fn cpu(&self) -> Result<Option<CpuInfo>, ImagesError> {
        machine::cpu(self)
    }

    /// Refuses images that ask for more than the workload's owner has: see [`super::limits`].
    ///
    /// # Errors
    /// [`ImagesError::NotAllowed`], or what makes the images unreadable.
    pub fn check_credentials(&self, allowed: &AllowedCredentials) -> Result<(), ImagesError> {
        limits::check_credentials(self, allowed)
    }

    /// Refuses images that reach outside of the hold: files that Lifeboat's dumps do not have,
    /// namespaces of their own, kinds of open files that the workload has no right to. Paths of
    /// open files are the caller's to check ([`ImageSet::open_files`]).
    ///
    /// The set must have all of the image's files (bulk may be empty), since names count.
    ///
    /// # Errors
    /// [`ImagesError::NotAllowed`], or what makes the images unreadable.
    pub fn check_reach(&self, allowed: &AllowedCredentials) -> Result<(), ImagesError> {
        limits::check_reach(self, allowed)
    }
}

/// Whether a file is kept in memory when CRIU writes it: all but page contents, contents of
/// unlinked and temporary files, and System V shared memory.
#[must_use]
pub fn is_kept(name: &str) -> bool {
    const BULK: [&str; 6] = [
        "pages-",
        "ghost-file-",
        "tmpfs-",
        "autofs-",
        "bpfmap-data",
        "ipcns-shm-",
    ];
    !BULK.iter().any(|bulk| name.starts_with(bulk))
}
