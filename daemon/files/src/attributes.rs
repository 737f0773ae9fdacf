//! Owner, mode, modification time and extended attributes of one file, read and put back.

use std::{io, os::fd::AsRawFd as _};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid},
    io::Errno,
};

use crate::xattr::{self, Target, Xattr};

/// Permission bits, set-id bits and the sticky bit.
pub(crate) const MODE_BITS: u32 = 0o7777;

/// Set-user-id and set-group-id.
const SET_ID_BITS: u32 = 0o6000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// [`MODE_BITS`].
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time: seconds since the epoch, and nanoseconds to add.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<Xattr>,
}

impl Attributes {
    pub(crate) fn read(stat: &Stat, target: Target<'_>) -> io::Result<Self> {
        Ok(Self {
            xattrs: xattr::read(target)?,
            ..Self::from_stat(stat)
        })
    }

    /// All but the extended attributes.
    pub(crate) fn from_stat(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & MODE_BITS,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
            xattrs: Vec::new(),
        }
    }

    /// Size in memory, in bytes, roughly.
    pub(crate) fn footprint(&self) -> usize {
        size_of::<Self>()
            + self
                .xattrs
                .iter()
                .map(|(n, v)| n.len() + v.len() + size_of::<Xattr>())
                .sum::<usize>()
    }

    /// Puts everything on `target`. Returns what this process may not set, for people; set-id bits are
    /// dropped from a file whose owner could not be set.
    ///
    /// The order matters: chown(2) clears set-id bits and capabilities, chmod(2) changes an ACL's
    /// mask, and all of them may touch the time.
    pub(crate) fn apply(&self, target: Target<'_>) -> io::Result<Vec<String>> {
        let mut lost = Vec::new();
        let now = stat(target)?;
        let kind = FileType::from_raw_mode(now.st_mode);
        let owned = self.own(target, &now, &mut lost)?;
        if kind != FileType::Symlink {
            self.set_mode(target, owned, &mut lost)?;
        }
        for name in xattr::make_equal(target, &self.xattrs)? {
            lost.push(format!(
                "extended attribute {}",
                String::from_utf8_lossy(&name)
            ));
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.mtime.0,
                tv_nsec: self.mtime.1.into(),
            },
        };
        match set_times(target, &times) {
            // Somebody else's directory that the workload may only write to, /dev/shm for example:
            // others change it all the time.
            Err(Errno::PERM | Errno::ACCESS) if kind == FileType::Directory => {}
            Err(Errno::PERM | Errno::ACCESS) => lost.push("modification time".to_owned()),
            other => other?,
        }
        Ok(lost)
    }

    /// Sets the mode where it differs. It may be somebody else's directory, /dev/shm for example.
    fn set_mode(&self, target: Target<'_>, owned: bool, lost: &mut Vec<String>) -> io::Result<()> {
        let mode = if owned {
            self.mode
        } else {
            self.mode & !SET_ID_BITS
        };
        if mode != self.mode {
            lost.push(format!("mode {:o} without its set-id bits", self.mode));
        }
        if stat(target)?.st_mode & MODE_BITS == mode {
            return Ok(());
        }
        match chmod(target, mode) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                lost.push(format!("mode {mode:o}"));
                Ok(())
            }
            other => other,
        }
    }

    /// Sets owner and group where they differ. Returns whether the file has both now.
    fn own(&self, target: Target<'_>, now: &Stat, lost: &mut Vec<String>) -> io::Result<bool> {
        if (now.st_uid, now.st_gid) == (self.uid, self.gid) {
            return Ok(true);
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        match chown(target, Some(uid), Some(gid)) {
            Ok(()) => return Ok(true),
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        if now.st_uid != self.uid {
            lost.push(format!("owner {}", self.uid));
        }
        if now.st_gid != self.gid && chown(target, None, Some(gid)).is_err() {
            lost.push(format!("group {}", self.gid));
        }
        Ok(false)
    }
}

fn stat(target: Target<'_>) -> Result<Stat, Errno> {
    match target {
        Target::Open(fd) => fs::fstat(fd),
        Target::Named(dir, name) => fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn chown(target: Target<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
    match target {
        Target::Open(fd) => fs::fchown(fd, uid, gid),
        Target::Named(dir, name) => fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn set_times(target: Target<'_>, times: &Timestamps) -> Result<(), Errno> {
    match target {
        Target::Open(fd) => fs::futimens(fd, times),
        Target::Named(dir, name) => fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn chmod(target: Target<'_>, mode: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    match target {
        Target::Open(fd) => Ok(fs::fchmod(fd, mode)?),
        Target::Named(dir, name) => {
            // fchmodat(2) follows links (its successor that need not is of Linux 6.6): pin the file
            // first, without opening it, and go through /proc.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pinned = fs::openat(dir, name, flags, Mode::empty())?;
            Ok(fs::chmod(
                format!("/proc/self/fd/{}", pinned.as_raw_fd()),
                mode,
            )?)
        }
    }
}
