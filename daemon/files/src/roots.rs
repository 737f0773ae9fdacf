//! The paths that travel: which are allowed, and how a path lies in them.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Most roots of one workload.
const ROOTS_MAX: usize = 1024;

/// Longest path that the kernel takes in one call, in bytes (PATH_MAX less the final NUL).
pub(crate) const PATH_BYTES_MAX: usize = 4095;

/// Trees that the kernel or the machine owns; nothing below them can be carried elsewhere.
const NOT_FILES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The one place below these that holds files of the workload.
const SHARED_MEMORY: &str = "/dev/shm";

/// Why a path cannot be a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Not absolute, or with `..` in it.
    #[error("preserved path {0:?} is not an absolute path without `..`")]
    NotPlain(PathBuf),
    /// `/` itself.
    #[error("the root directory cannot be a preserved path: name the directories that matter")]
    Everything,
    /// Under /proc, /sys or /dev (but /dev/shm is allowed).
    #[error("preserved path {0:?} belongs to the machine, not to the workload")]
    NotFiles(PathBuf),
    /// Longer than the kernel takes.
    #[error("preserved path {0:?} is longer than 4095 bytes")]
    TooLong(PathBuf),
    /// Too many of them.
    #[error("{0} preserved paths are more than the allowed 1024")]
    TooMany(usize),
}

/// Checked roots: absolute, without `.` and `..`, sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    all: Vec<PathBuf>,
}

impl Roots {
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Self, RootError> {
        if paths.len() > ROOTS_MAX {
            return Err(RootError::TooMany(paths.len()));
        }
        let mut all = paths
            .iter()
            .map(|path| plain(path))
            .collect::<Result<Vec<_>, _>>()?;
        all.sort();
        all.dedup();
        Ok(Self { all })
    }

    /// The roots that lie in no other root.
    pub(crate) fn outermost(&self) -> impl Iterator<Item = &Path> {
        self.all
            .iter()
            .filter(|root| root.ancestors().skip(1).all(|up| !self.is_root(up)))
            .map(PathBuf::as_path)
    }

    pub(crate) fn is_root(&self, path: &Path) -> bool {
        self.all
            .binary_search_by(|root| root.as_path().cmp(path))
            .is_ok()
    }
}

fn plain(path: &Path) -> Result<PathBuf, RootError> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::Normal(_) => out.push(component),
            Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(RootError::NotPlain(path.to_owned()));
            }
        }
    }
    if !out.is_absolute() || out.as_os_str().as_bytes().contains(&0) {
        return Err(RootError::NotPlain(path.to_owned()));
    }
    if out == Path::new("/") {
        return Err(RootError::Everything);
    }
    // Shared memory files are the workload's where it has a /dev/shm of its own.
    if NOT_FILES.iter().any(|tree| out.starts_with(tree)) && !out.starts_with(SHARED_MEMORY) {
        return Err(RootError::NotFiles(out));
    }
    if out.as_os_str().len() > PATH_BYTES_MAX {
        return Err(RootError::TooLong(out));
    }
    Ok(out)
}

/// An archive's name for an absolute path: the path without its first slash.
pub(crate) fn name_of(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes)
}

/// The absolute path that a name in an archive stands for, or `None` if the name is not one that
/// [`name_of`] makes: no empty part, no `.`, no `..`, no NUL, not longer than the kernel takes.
pub(crate) fn path_of(name: &[u8]) -> Option<PathBuf> {
    let proper = name
        .split(|&b| b == b'/')
        .all(|part| !matches!(part, b"" | b"." | b".."));
    if !proper || name.contains(&0) || name.len() >= PATH_BYTES_MAX {
        return None;
    }
    Some(Path::new("/").join(OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_absolute_plain_and_not_the_machine_s_own() {
        for bad in [
            "",
            "a",
            "./a",
            "/",
            "//",
            "/.",
            "/a/../b",
            "/proc/1",
            "/sys",
            "/dev",
            "/dev/shmx",
        ] {
            assert!(Roots::new(&[PathBuf::from(bad)]).is_err(), "{bad:?}");
        }
        assert!(Roots::new(&["/dev/shm".into(), "/dev/shm/x".into()]).is_ok());
        let roots = Roots::new(&["/b/", "/a/./c", "/a/c", "/a"].map(PathBuf::from)).unwrap();
        assert_eq!(roots.all, ["/a", "/a/c", "/b"].map(PathBuf::from));
        assert_eq!(
            roots.outermost().collect::<Vec<_>>(),
            ["/a", "/b"].map(Path::new)
        );
        assert!(roots.is_root(Path::new("/a/c")));
    }

    #[test]
    fn names_that_would_lead_elsewhere_have_no_path() {
        for bad in [
            &b""[..],
            b"/",
            b"/etc/passwd",
            b"a/",
            b"a//b",
            b"./a",
            b"a/../b",
            b"..",
            b"a\0b",
        ] {
            assert_eq!(path_of(bad), None, "{bad:?}");
        }
        assert_eq!(
            path_of(b"a/\xffb"),
            Some(Path::new("/a").join(OsStr::from_bytes(b"\xffb")))
        );
        assert_eq!(path_of(&[b'a'; PATH_BYTES_MAX]), None);
    }
}
