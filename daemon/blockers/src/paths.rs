//! Which paths will be there where the workload is restored.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use crate::inspect::Policy;

/// Trees that are part of an installed system: a peer has the same.
const SYSTEM: [&str; 8] = [
    "/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc",
];

/// Trees of the kernel.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A file system for files, in the middle of one for devices.
const SHARED_MEMORY: &str = "/dev/shm";

/// Directories that every machine has.
const DIRECTORIES: [&str; 16] = [
    "/",
    "/root",
    "/tmp",
    "/var",
    "/var/tmp",
    "/var/lib",
    "/var/log",
    "/var/cache",
    "/var/spool",
    "/run",
    "/home",
    "/opt",
    "/srv",
    "/mnt",
    "/media",
    "/dev/shm",
];

/// What becomes of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It travels with the checkpoint.
    Preserved,
    /// The other machine has the same.
    System,
    /// It is the kernel's.
    Kernel,
    /// Nobody brings it.
    Left,
}

/// The fate of a path, as the workload sees it.
pub(crate) fn fate(path: &Path, policy: &Policy) -> Fate {
    if policy.preserve.iter().any(|tree| path.starts_with(tree)) {
        Fate::Preserved
    } else if path.starts_with(SHARED_MEMORY) {
        Fate::Left
    } else if KERNEL.iter().any(|tree| path.starts_with(tree)) {
        Fate::Kernel
    } else if SYSTEM.iter().any(|tree| path.starts_with(tree))
        || policy.everywhere.iter().any(|tree| path.starts_with(tree))
    {
        Fate::System
    } else {
        Fate::Left
    }
}

/// Whether every machine has this directory: the usual ones, and homes.
pub(crate) fn is_everywhere(directory: &Path) -> bool {
    DIRECTORIES
        .iter()
        .any(|known| directory == Path::new(known))
        || directory.parent() == Some(Path::new("/home"))
}

/// The path without the kernel's ` (deleted)`, if it has that.
pub(crate) fn deleted(link: &OsStr) -> Option<&Path> {
    let path = link.as_bytes().strip_suffix(b" (deleted)")?;
    Some(Path::new(OsStr::from_bytes(path)))
}

/// The path to suggest for `--preserve`: a directory itself; the directory of a file, unless that is
/// one that every machine has.
pub(crate) fn suggestion(path: &Path, directory: bool) -> &Path {
    match path.parent() {
        Some(parent) if !directory && !is_everywhere(parent) => parent,
        _ => path,
    }
}

/// The outermost part of a path that not every machine has.
pub(crate) fn top(path: &Path) -> &Path {
    path.ancestors()
        .take_while(|above| !is_everywhere(above))
        .last()
        .unwrap_or(path)
}

/// The directory that two paths have in common.
pub(crate) fn common<'a>(one: &'a Path, other: &Path) -> &'a Path {
    one.ancestors()
        .find(|above| other.starts_with(above))
        .unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_s_fate_goes_by_whole_parts() {
        let policy = Policy {
            preserve: vec!["/data".into(), "/etc/mine".into()],
            everywhere: vec!["/image".into()],
            ..Policy::default()
        };
        for (path, expected) in [
            ("/data/x", Fate::Preserved),
            ("/database/x", Fate::Left),
            ("/etc/mine", Fate::Preserved),
            ("/etc/passwd", Fate::System),
            ("/usrlocal", Fate::Left),
            ("/image/bin/x", Fate::System),
            ("/dev/null", Fate::Kernel),
            ("/dev/shm/PostgreSQL.1", Fate::Left),
            ("/home/a/app", Fate::Left),
        ] {
            assert_eq!(fate(Path::new(path), &policy), expected, "{path}");
        }
    }

    #[test]
    fn what_to_preserve_is_never_a_shared_directory() {
        for (path, expected) in [
            ("/tmp/x", "/tmp/x"),
            ("/home/ann/x", "/home/ann/x"),
            ("/home/ann/app/x", "/home/ann/app"),
            ("/var/lib/redis/dump.rdb", "/var/lib/redis"),
            ("/x", "/x"),
            ("/srv", "/srv"),
        ] {
            assert_eq!(suggestion(Path::new(path), false), Path::new(expected));
        }
    }

    #[test]
    fn groups_have_a_top_and_a_common_directory() {
        assert_eq!(
            top(Path::new("/home/ann/venv/lib/x.so")),
            Path::new("/home/ann/venv")
        );
        assert_eq!(top(Path::new("/tmp/x")), Path::new("/tmp/x"));
        let (a, b) = (Path::new("/srv/app/a/b"), Path::new("/srv/app/a2"));
        assert_eq!(common(a, b), Path::new("/srv/app"));
        assert_eq!(common(a, a), a);
    }
}
