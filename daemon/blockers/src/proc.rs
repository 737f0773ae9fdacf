//! Bounded reads below /proc/PID, through a descriptor of that directory: once it is open, another
//! process that gets the same PID is never mistaken for this one.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
};

use rustix::{
    fs::{self, AtFlags, Dir, Mode, OFlags, Statx, StatxFlags},
    io::Errno,
};

/// Most bytes of a small file of /proc.
pub(crate) const SMALL_BYTES_MAX: u64 = 64 << 10;

/// The directory /proc/PID of one process.
#[derive(Debug)]
pub(crate) struct ProcDir {
    dir: OwnedFd,
}

impl ProcDir {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            dir: fs::open(format!("/proc/{pid}"), flags, Mode::empty())?,
        })
    }

    /// At most `bytes_max` bytes of a file. The flag tells whether that was all.
    pub(crate) fn read(&self, name: &str, bytes_max: u64) -> io::Result<(Vec<u8>, bool)> {
        let file = fs::openat(
            &self.dir,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut bytes = Vec::new();
        std::fs::File::from(file)
            .take(bytes_max + 1)
            .read_to_end(&mut bytes)?;
        let whole = bytes.len() as u64 <= bytes_max;
        if !whole {
            bytes.pop();
        }
        Ok((bytes, whole))
    }

    /// A small file as text.
    pub(crate) fn text(&self, name: &str) -> io::Result<String> {
        let (bytes, _) = self.read(name, SMALL_BYTES_MAX)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where a link points to, as the kernel shows it.
    pub(crate) fn link(&self, name: &str) -> io::Result<OsString> {
        Ok(OsString::from_vec(
            fs::readlinkat(&self.dir, name, Vec::new())?.into_bytes(),
        ))
    }

    /// What a link leads to. Network file systems are not asked.
    pub(crate) fn stat(&self, name: &str) -> io::Result<Statx> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        Ok(fs::statx(&self.dir, name, flags, StatxFlags::BASIC_STATS)?)
    }

    /// The numbers that are names in a directory, at most `entries_max` of them.
    pub(crate) fn numbers(&self, name: &str, entries_max: usize) -> io::Result<Vec<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::openat(&self.dir, name, flags, Mode::empty())?;
        let mut numbers = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            if let Some(number) = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse().ok())
                && numbers.len() < entries_max
            {
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    /// A path to something below the directory, for calls that take no descriptor.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd())
    }

    /// Opens a directory, or a namespace, below.
    pub(crate) fn open_below(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(fs::openat(
            &self.dir,
            name,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

/// Whether an error means that the process, or the thing of it, is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The value of a `Key:\tvalue` line, as in status and fdinfo files.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
}
