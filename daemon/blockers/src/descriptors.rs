//! The open files of a workload.

use std::{ffi::OsString, io, os::unix::ffi::OsStrExt as _};

use rustix::fs::FileType;

use crate::{
    blocker::{Findings, Kind},
    proc::{field, is_gone},
    process::Process,
};

/// Most descriptors of all processes together that are looked at.
const DESCRIPTORS_MAX: usize = 100_000;

/// An open file of one process.
#[derive(Debug)]
pub(crate) struct Descriptor<'a> {
    pub(crate) process: &'a Process,
    pub(crate) number: u32,
    /// As the kernel shows it: a path, or `kind:[inode]`.
    pub(crate) link: OsString,
    pub(crate) file: FileFacts,
}

/// What statx(2) says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) kind: FileType,
    pub(crate) inode: u64,
    pub(crate) links: u32,
    /// Bytes on disk.
    pub(crate) stored_bytes: u64,
    /// Major and minor number of a device file.
    pub(crate) device: (u32, u32),
}

impl From<rustix::fs::Statx> for FileFacts {
    fn from(stat: rustix::fs::Statx) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            inode: stat.stx_ino,
            links: stat.stx_nlink,
            stored_bytes: stat.stx_blocks.saturating_mul(512),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        }
    }
}

/// How a descriptor was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Descriptor<'_> {
    pub(crate) fn is_link(&self, prefix: &str) -> bool {
        self.link.as_bytes().starts_with(prefix.as_bytes())
    }

    /// A field of its fdinfo file.
    pub(crate) fn info(&self, key: &str) -> Option<String> {
        let text = self
            .process
            .dir
            .text(&format!("fdinfo/{}", self.number))
            .ok()?;
        field(&text, key).map(str::to_owned)
    }

    /// From the flags, which the kernel prints in octal (proc_pid_fdinfo(5)).
    pub(crate) fn access(&self) -> Access {
        let flags = self
            .info("flags")
            .and_then(|flags| u32::from_str_radix(&flags, 8).ok());
        match flags.unwrap_or(0) & 3 {
            0 => Access {
                read: true,
                write: false,
            },
            1 => Access {
                read: false,
                write: true,
            },
            _ => Access {
                read: true,
                write: true,
            },
        }
    }

    /// `descriptor N of NAME (pid P)`, for people.
    pub(crate) fn shown(&self) -> String {
        format!("descriptor {} of {}", self.number, self.process.shown())
    }
}

/// All open files of all processes.
pub(crate) fn collect<'a>(tree: &'a [Process], findings: &mut Findings) -> Vec<Descriptor<'a>> {
    let mut all = Vec::new();
    for process in tree.iter().filter(|process| !process.status.is_zombie()) {
        let room = DESCRIPTORS_MAX - all.len();
        match of_process(process, room, &mut all) {
            Ok(true) => {}
            Ok(false) => {
                findings.note(
                    Kind::Unknown,
                    process.pid,
                    format!("there are more than {DESCRIPTORS_MAX} open files; the others were not looked at"),
                );
                break;
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => findings.note(
                Kind::Unknown,
                process.pid,
                format!(
                    "the open files of {} could not be read: {error}",
                    process.shown()
                ),
            ),
        }
    }
    all
}

/// Returns false if there was not room for all.
fn of_process<'a>(
    process: &'a Process,
    room: usize,
    all: &mut Vec<Descriptor<'a>>,
) -> io::Result<bool> {
    let numbers = process.dir.numbers("fd", room + 1)?;
    for number in numbers.iter().take(room) {
        let name = format!("fd/{number}");
        let looked = process
            .dir
            .link(&name)
            .and_then(|link| Ok((link, process.dir.stat(&name)?)));
        match looked {
            Ok((link, stat)) => {
                all.push(Descriptor {
                    process,
                    number: *number,
                    link,
                    file: stat.into(),
                });
            }
            // Closed meanwhile, or it leads to a file system that does not answer.
            Err(error) if is_gone(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => {}
        }
    }
    Ok(numbers.len() <= room)
}
