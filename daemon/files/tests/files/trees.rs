//! Trees on a real file system, and pictures of them that can be compared.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses its part"
)]

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use lifeboat_files::{Limits, Summary, archive, extract};

/// Everything about one file that must survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) content: Content,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// First path, in order, of the same file.
    pub(crate) same_as: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    /// Bytes, and 512-byte blocks on disk.
    File(Vec<u8>),
    Link(PathBuf),
    Other,
}

pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    look(root, root, &mut found);
    let mut first = HashMap::new();
    for (path, facts) in &mut found {
        let meta = fs::symlink_metadata(root.join(path)).unwrap();
        facts.same_as = first
            .entry((meta.dev(), meta.ino()))
            .or_insert(path.clone())
            .clone();
    }
    found
}

fn look(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, Facts>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            look(root, &entry.unwrap().path(), found);
        }
        Content::Directory
    } else if kind.is_file() {
        Content::File(fs::read(path).unwrap())
    } else if kind.is_symlink() {
        Content::Link(fs::read_link(path).unwrap())
    } else {
        Content::Other
    };
    let facts = Facts {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        content,
        xattrs: xattrs(path),
        same_as: PathBuf::new(),
    };
    found.insert(path.strip_prefix(root).unwrap().to_owned(), facts);
}

pub(crate) fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut all: Vec<_> = list[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect();
    all.sort();
    all
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// An access or default ACL: the owner, a named user, the group, a mask and others.
pub(crate) fn acl(named_user: u32) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (0x01u16, 7u16, u32::MAX),
        (0x02, 5, named_user),
        (0x04, 4, u32::MAX),
        (0x10, 5, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanos: u32) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn pack(roots: &[&Path]) -> (Vec<u8>, Summary) {
    let roots: Vec<PathBuf> = roots.iter().map(|&root| root.to_owned()).collect();
    let mut out = Vec::new();
    let summary = archive(&roots, &mut out, Limits::default()).unwrap();
    (out, summary)
}

pub(crate) fn unpack(bytes: &[u8], roots: &[&Path]) -> Summary {
    let roots: Vec<PathBuf> = roots.iter().map(|&root| root.to_owned()).collect();
    extract(bytes, &roots).unwrap()
}

/// The message of an error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(crate) fn bytes(text: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(text))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
