//! Extended attributes: those that belong to a file's owner and travel, read and made equal.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
};

use rustix::{
    fs::{self, XattrFlags},
    io::Errno,
};

/// Largest list of names and largest value that the kernel has, in bytes (xattr(7)).
const KERNEL_BYTES_MAX: usize = 64 << 10;

/// A name and its value.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// A file as the attribute calls take it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// A regular file or directory that is open.
    Open(BorrowedFd<'a>),
    /// Anything in a directory that is open, by its name; symbolic links are not followed.
    Named(BorrowedFd<'a>, &'a OsStr),
}

/// Whether an attribute travels. Labels of the machine's security modules and what overlayfs keeps
/// for itself do not.
fn travels(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."))
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// The attributes that travel, by name.
pub(crate) fn read(target: Target<'_>) -> io::Result<Vec<Xattr>> {
    let mut all = Vec::new();
    for name in names(target)? {
        let value = value(target, &name)?;
        all.push((name, value));
    }
    all.sort();
    Ok(all)
}

/// Makes the attributes equal to `wanted`. Returns the names of those that this process, or this file
/// system, could not set or remove.
pub(crate) fn make_equal(target: Target<'_>, wanted: &[Xattr]) -> io::Result<Vec<Vec<u8>>> {
    let mut refused = Vec::new();
    let mut note = |name: &[u8], result: Result<(), Errno>| match result {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
            refused.push(name.to_vec());
            Ok(())
        }
        Err(error) => Err(io::Error::from(error)),
    };
    for name in names(target)? {
        if !wanted.iter().any(|(wanted, _)| *wanted == name) {
            note(&name, remove(target, &name))?;
        }
    }
    for (name, value) in wanted {
        let allowed = travels(name) && CString::new(name.as_slice()).is_ok();
        note(
            name,
            if allowed {
                set(target, name, value)
            } else {
                Err(Errno::PERM)
            },
        )?;
    }
    Ok(refused)
}

fn names(target: Target<'_>) -> io::Result<Vec<Vec<u8>>> {
    let length = match target {
        Target::Open(fd) => fs::flistxattr_query(fd),
        Target::Named(dir, name) => fs::llistxattr_query(path(dir, name)),
    };
    match length {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut list = vec![0; KERNEL_BYTES_MAX];
    let length = match target {
        Target::Open(fd) => fs::flistxattr(fd, &mut list[..]),
        Target::Named(dir, name) => fs::llistxattr(path(dir, name), &mut list[..]),
    }?;
    list.truncate(length);
    let names = list.split(|&b| b == 0).filter(|name| travels(name));
    Ok(names.map(<[u8]>::to_vec).collect())
}

fn value(target: Target<'_>, xattr: &[u8]) -> io::Result<Vec<u8>> {
    let mut value = vec![0; KERNEL_BYTES_MAX];
    let length = match target {
        Target::Open(fd) => fs::fgetxattr(fd, xattr, &mut value[..]),
        Target::Named(dir, name) => fs::lgetxattr(path(dir, name), xattr, &mut value[..]),
    }?;
    value.truncate(length);
    value.shrink_to_fit();
    Ok(value)
}

fn set(target: Target<'_>, xattr: &[u8], value: &[u8]) -> Result<(), Errno> {
    match target {
        Target::Open(fd) => fs::fsetxattr(fd, xattr, value, XattrFlags::empty()),
        Target::Named(dir, name) => {
            fs::lsetxattr(path(dir, name), xattr, value, XattrFlags::empty())
        }
    }
}

fn remove(target: Target<'_>, xattr: &[u8]) -> Result<(), Errno> {
    match target {
        Target::Open(fd) => fs::fremovexattr(fd, xattr),
        Target::Named(dir, name) => fs::lremovexattr(path(dir, name), xattr),
    }
}

/// The attribute calls before Linux 6.13 know no directory descriptors: go through /proc.
fn path(dir: BorrowedFd<'_>, name: &OsStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    path
}
