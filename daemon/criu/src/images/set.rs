//! The small image files of one dump, in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_proto::units::PageRun;

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

    /// The processes, parents before children.
    ///
    /// # Errors
    /// `pstree.img` is missing or malformed.
    pub fn tasks(&self) -> Result<Vec<Task>, ImagesError> {
        Err(ImagesError::Missing {
            name: "pstree.img".into(),
        })
    }

    /// Mappings of a process, ascending.
    ///
    /// # Errors
    /// `mm-PID.img` is missing or malformed.
    pub fn mappings(&self, _pid: u32) -> Result<Vec<Mapping>, ImagesError> {
        Ok(Vec::new())
    }

    /// Pages of a process whose contents CRIU wrote itself, ascending and disjoint.
    ///
    /// # Errors
    /// `pagemap-PID.img` is missing or malformed.
    pub fn captured_by_criu(&self, _pid: u32) -> Result<Vec<PageRun>, ImagesError> {
        Ok(Vec::new())
    }

    /// Bytes that were in a pipe, unread, by the pipe's inode (its low 32 bits).
    ///
    /// # Errors
    /// `pipes-data.img` is malformed.
    pub fn pipe_data(&self) -> Result<BTreeMap<u32, Bytes>, ImagesError> {
        Ok(BTreeMap::new())
    }

    /// Refuses images that ask for more than the workload's owner has.
    ///
    /// # Errors
    /// [`ImagesError::NotAllowed`], or what makes the images unreadable.
    pub fn check_credentials(&self, _allowed: &AllowedCredentials) -> Result<(), ImagesError> {
        Ok(())
    }
}

/// A process of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// PID.
    pub pid: u32,
    /// PID of the parent; 0 for the first one.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Thread ids; the first is the PID.
    pub threads: Vec<u32>,
    /// Whether it is a zombie: no memory, no userfaultfd.
    pub zombie: bool,
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
    /// `MADV_*` bits, as CRIU stores them.
    pub advice: u64,
    /// Whether a lazy restore registers it with the process's userfaultfd: private, anonymous, not
    /// locked, not of huge pages.
    pub lazy: bool,
}

/// What the processes of an image may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedCredentials {
    /// User id. With 0 every id is allowed.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities that may be in any of the sets, as a bit mask (capabilities(7)).
    pub capabilities: u64,
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
