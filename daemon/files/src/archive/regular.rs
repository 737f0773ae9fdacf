//! Regular files: opened without surprises, holes kept, contents read to the last byte or refused.

use std::{
    io::Write,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{
    ArchiveError, CHUNK_BYTES, Child, Walk,
    error::{read_error, write_error},
};
use crate::{
    item::Kind,
    place::STAY_BELOW,
    sparse::{self, BLOCK, Segment},
    xattr::Target,
};

impl<W: Write> Walk<'_, W> {
    /// A regular file with its contents. Returns false if it was left out.
    pub(super) fn regular(
        &mut self,
        child: &Child<'_>,
        listed: &Stat,
        resolve: ResolveFlags,
    ) -> Result<bool, ArchiveError> {
        let path = &child.path;
        // Should it have become a FIFO meanwhile, opening must not wait for a writer.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match fs::openat2(
            child.dir,
            &child.name,
            flags,
            Mode::empty(),
            STAY_BELOW | resolve,
        ) {
            Ok(file) => file,
            Err(Errno::XDEV) => {
                self.summary
                    .warn(format!("{path:?} was left out: it is a mount of its own"));
                return Ok(false);
            }
            Err(Errno::ACCESS) if self.stranger(child.dir, Path::new(&child.name)) => {
                self.summary.warn(format!(
                    "{path:?} was left out: it belongs to somebody else, who does not let the \
                         workload's user read it"
                ));
                return Ok(false);
            }
            Err(error) => return Err(read_error("open", path, error)),
        };
        let stat = fs::fstat(&file).map_err(|error| read_error("look at", path, error))?;
        if (stat.st_dev, stat.st_ino) != (listed.st_dev, listed.st_ino) {
            return Err(ArchiveError::Vanished { path: path.clone() });
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let segments = sparse::segments(&file, size).map_err(|source| ArchiveError::Read {
            what: "find the holes of",
            path: path.clone(),
            source,
        })?;
        let data: u64 = segments.iter().map(|segment| segment.length).sum();
        self.summary.bytes += data;
        if self.summary.bytes > self.limits.bytes_max {
            return Err(ArchiveError::Bytes {
                bytes_max: self.limits.bytes_max,
            });
        }
        let target = Target::Open(file.as_fd());
        if data == size {
            self.entry(path, &stat, target, Kind::Regular { size })?;
        } else {
            let map = sparse::encode(&segments, size);
            let stored = map.len() as u64 + data;
            self.entry(path, &stat, target, Kind::Sparse { size, stored })?;
            self.write(path, &map)?;
        }
        for segment in &segments {
            self.contents(&file, path, *segment, size)?;
        }
        let rest = usize::try_from(data % BLOCK as u64).unwrap_or_default();
        if rest != 0 {
            self.write(path, &[0; BLOCK][rest..])?;
        }
        let after = fs::fstat(&file).map_err(|error| read_error("look at", path, error))?;
        if (after.st_mtime, after.st_mtime_nsec) != (stat.st_mtime, stat.st_mtime_nsec) {
            self.summary.warn(format!(
                "{path:?} was changed by somebody while it was archived"
            ));
        }
        Ok(true)
    }

    fn contents(
        &mut self,
        file: &OwnedFd,
        path: &Path,
        segment: Segment,
        size: u64,
    ) -> Result<(), ArchiveError> {
        let mut at = segment.offset;
        let end = segment.offset + segment.length;
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(CHUNK_BYTES);
            let read = match rustix::io::pread(file, &mut self.buffer[..want], at) {
                Ok(0) => {
                    let path = path.to_owned();
                    return Err(ArchiveError::Shrank {
                        path,
                        expected: size,
                        found: at,
                    });
                }
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(read_error("read", path, error)),
            };
            self.out
                .get_mut()
                .write_all(&self.buffer[..read])
                .map_err(|source| write_error(path, source))?;
            at += read as u64;
        }
        Ok(())
    }
}
