//! Where extracted things are put: roots that are opened without following links below them, and new
//! files that appear under their name only when they are complete.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::mirror;

/// How every path below a root is resolved: no way out, no links of any kind.
pub(crate) const STAY_BELOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Flags that open a directory for listing.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Names tried for a new file before giving up; each is taken by a leftover of a killed run.
const TEMP_NAMES_MAX: u32 = 1000;

/// A root on this machine. What leads to it is resolved once, before anything is written, so that
/// nothing an archive does can move it.
#[derive(Debug)]
pub(crate) struct Top {
    pub(crate) path: PathBuf,
    /// The deepest directory above the root that exists.
    anchor: OwnedFd,
    /// What is missing between the anchor and the root.
    missing: PathBuf,
    name: OsString,
    /// The root itself, once the archive had it as a directory.
    pub(crate) directory: Option<OwnedFd>,
}

impl Top {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_owned();
        let parent = path.parent().unwrap_or(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for above in parent.ancestors() {
            match fs::open(above, flags, Mode::empty()) {
                Ok(anchor) => {
                    let missing = parent
                        .strip_prefix(above)
                        .unwrap_or(Path::new(""))
                        .to_owned();
                    return Ok(Self {
                        path: path.to_owned(),
                        anchor,
                        missing,
                        name,
                        directory: None,
                    });
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// The directory that holds the root, made if it is missing.
    pub(crate) fn parent(&self) -> io::Result<(OwnedFd, OsString)> {
        let mut dir = self.anchor.try_clone()?;
        for part in &self.missing {
            match fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = fs::openat2(&dir, part, DIRECTORY, Mode::empty(), STAY_BELOW)?;
        }
        Ok((dir, self.name.clone()))
    }
}

/// Opens the directory that holds `below` (not empty), and its name in there.
pub(crate) fn open_parent(top: impl AsFd, below: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let parent = below
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let dir = fs::openat2(
        top,
        parent.unwrap_or(Path::new(".")),
        DIRECTORY,
        Mode::empty(),
        STAY_BELOW,
    )?;
    Ok((dir, below.file_name().unwrap_or_default()))
}

/// Makes the directory `name` in `dir`, or takes the one that is there, and opens it. What else has
/// the name is removed. The owner may list and change it afterwards.
pub(crate) fn directory(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let open = || fs::openat2(dir, name, DIRECTORY, Mode::empty(), STAY_BELOW);
    match fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) => return Ok(open()?),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let opened = match open() {
        Ok(opened) => opened,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            fs::unlinkat(dir, name, AtFlags::empty())?;
            fs::mkdirat(dir, name, Mode::RWXU)?;
            open()?
        }
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let pinned = fs::openat2(dir, name, flags, Mode::empty(), STAY_BELOW)?;
            fs::chmod(format!("/proc/self/fd/{}", pinned.as_raw_fd()), Mode::RWXU)?;
            open()?
        }
        Err(error) => return Err(error.into()),
    };
    make_usable(&opened)?;
    Ok(opened)
}

/// Lets the owner list and change a directory. Somebody else's stays as it is.
pub(crate) fn make_usable(dir: impl AsFd) -> io::Result<()> {
    let mode = Mode::from_raw_mode(fs::fstat(&dir)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        match fs::fchmod(&dir, mode | Mode::RWXU) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Something new beside its final place, removed when dropped unless [`Temp::commit`] ran.
#[derive(Debug)]
pub(crate) struct Temp<'a> {
    dir: BorrowedFd<'a>,
    name: OsString,
}

impl<'a> Temp<'a> {
    /// Calls `make` with free names until it succeeds; `make` fails with EEXIST for a taken one.
    pub(crate) fn new<T>(
        dir: BorrowedFd<'a>,
        mut make: impl FnMut(&OsStr) -> Result<T, Errno>,
    ) -> io::Result<(Self, T)> {
        let pid = rustix::process::getpid().as_raw_nonzero();
        for n in 0..TEMP_NAMES_MAX {
            let name = OsString::from(format!(".lifeboat-{pid}-{n}.tmp"));
            match make(&name) {
                Ok(made) => return Ok((Self { dir, name }, made)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Gives it its final name, in place of whatever has that name.
    pub(crate) fn commit(self, name: &OsStr) -> io::Result<()> {
        match fs::renameat(self.dir, &self.name, self.dir, name) {
            Err(Errno::ISDIR) => {
                mirror::remove_tree(self.dir, name)?;
                Ok(fs::renameat(self.dir, &self.name, self.dir, name)?)
            }
            // Also unlinked by drop if both names were the same file: rename(2) leaves them then.
            other => Ok(other?),
        }
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and nothing else can be done here.
        let _gone = fs::unlinkat(self.dir, &self.name, AtFlags::empty());
    }
}
