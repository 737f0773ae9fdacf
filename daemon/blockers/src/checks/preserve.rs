//! Preserved paths that cannot travel as they are.

use std::{
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    blocker::{Findings, Kind},
    inspect::Scene,
};

/// Most bytes of the list of mounts.
const MOUNTS_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    let root = scene.root();
    if scene.policy.preserve.is_empty() {
        return;
    }
    let Ok(top) = root
        .dir
        .open_below("root", OFlags::PATH | OFlags::DIRECTORY)
    else {
        let detail = format!("the root directory of {} could not be opened", root.shown());
        findings.note(Kind::Unknown, root.pid, detail);
        return;
    };
    for path in &scene.policy.preserve {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let kind = fs::openat2(&top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            .and_then(fs::fstat)
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Symlink) => {
                let detail = format!(
                    "preserved path {path:?} is a symbolic link: preserve what it points to"
                );
                findings.fatal(Kind::Preserve, root.pid, detail);
            }
            Ok(FileType::CharacterDevice | FileType::BlockDevice) => {
                let detail = format!("preserved path {path:?} is a device node: leave it out");
                findings.fatal(Kind::Preserve, root.pid, detail);
            }
            // It may be made later; what is missing stays missing.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => {
                let detail = format!("preserved path {path:?} cannot be looked at: {error}");
                findings.note(Kind::Preserve, root.pid, detail);
            }
        }
    }
    mounts(scene, findings);
}

/// What is mounted below a preserved path is not part of it.
fn mounts(scene: &Scene<'_>, findings: &mut Findings) {
    let (root, preserve) = (scene.root(), &scene.policy.preserve);
    let Ok((bytes, _)) = root.dir.read("mountinfo", MOUNTS_BYTES_MAX) else {
        return;
    };
    for line in bytes.split(|&b| b == b'\n') {
        let Some(point) = line.split(|&b| b == b' ').nth(4).map(unescape) else {
            continue;
        };
        let below = preserve
            .iter()
            .find(|path| point.starts_with(path) && point != **path);
        if let Some(path) = below
            && !preserve.contains(&point)
        {
            let detail = format!(
                "something is mounted on {point:?}, which is under the preserved path {path:?} and \
                 does not travel with it: add `--preserve {}` if it matters",
                point.display()
            );
            findings.note(Kind::Preserve, root.pid, detail);
        }
    }
}

/// mountinfo writes spaces, tabs, line breaks and backslashes as `\` and three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Path::new(&std::ffi::OsString::from_vec(out)).to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn mount_points_come_back_as_they_are() {
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/a\\04"), Path::new("/a\\04"));
        assert_eq!(unescape(b"/\xff").as_os_str().as_bytes(), b"/\xff");
    }
}
