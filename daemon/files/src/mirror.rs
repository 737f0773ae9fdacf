//! Removes what an archive does not have, without following links and without entering mounts.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, ResolveFlags},
    io::Errno,
};

use crate::{
    place::{DIRECTORY, STAY_BELOW, make_usable, open_parent},
    summary::Summary,
};

/// Removes everything below `top` for which `keep` says no; `keep` gets the path from `top`. Sockets
/// stay: archives do not have them, CRIU makes the workload's again. What cannot be removed becomes a
/// warning. `enter` says which mounts are entered nevertheless.
pub(crate) fn remove_others(
    top: BorrowedFd<'_>,
    shown: &Path,
    keep: impl Fn(&Path) -> bool,
    enter: impl Fn(&Path) -> bool,
    summary: &mut Summary,
) -> io::Result<()> {
    let mut pending = vec![PathBuf::from(".")];
    while let Some(below) = pending.pop() {
        let resolve = if enter(&below) {
            STAY_BELOW
        } else {
            STAY_BELOW | ResolveFlags::NO_XDEV
        };
        let dir = match fs::openat2(top, &below, DIRECTORY, Mode::empty(), resolve) {
            Ok(dir) => dir,
            Err(Errno::XDEV) => continue,
            Err(error) => return Err(error.into()),
        };
        for (name, kind) in list(&dir)? {
            let path = match below.as_path() {
                dot if dot == Path::new(".") => PathBuf::from(&name),
                below => below.join(&name),
            };
            let removed = match (keep(&path), kind) {
                (true, FileType::Directory) => {
                    pending.push(path);
                    continue;
                }
                (true, _) | (false, FileType::Socket) => continue,
                (false, FileType::Directory) => remove_tree(dir.as_fd(), &name),
                (false, _) => fs::unlinkat(&dir, &name, AtFlags::empty()).map_err(Into::into),
            };
            match removed {
                Ok(()) => summary.removed += 1,
                Err(error) => summary.warn(format!(
                    "{:?} is not in the archive but could not be removed: {error}",
                    shown.join(path)
                )),
            }
        }
    }
    Ok(())
}

/// Removes the directory `name` with everything in it. It stays, without its other contents, if it
/// holds sockets or a mount: then the error says that it is not empty.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    // Each directory comes twice: to be emptied, then to be removed.
    let mut pending = vec![(PathBuf::from(name), false)];
    let mut result = Ok(());
    while let Some((below, emptied)) = pending.pop() {
        if emptied {
            let (parent, name) = open_parent(dir, &below)?;
            result = fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
            continue;
        }
        let resolve = STAY_BELOW | ResolveFlags::NO_XDEV;
        let opened = match fs::openat2(dir, &below, DIRECTORY, Mode::empty(), resolve) {
            Ok(opened) => opened,
            Err(Errno::XDEV) => continue,
            Err(Errno::ACCESS) => {
                pending.push((below, true));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        make_usable(&opened)?;
        pending.push((below.clone(), true));
        for (name, kind) in list(&opened)? {
            match kind {
                FileType::Directory => pending.push((below.join(name), false)),
                FileType::Socket => {}
                _ => fs::unlinkat(&opened, name, AtFlags::empty())?,
            }
        }
    }
    Ok(result?)
}

/// Names in a directory, with what they are.
fn list(dir: &OwnedFd) -> io::Result<Vec<(OsString, FileType)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsString::from_vec(name.to_vec());
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        entries.push((name, kind));
    }
    Ok(entries)
}
