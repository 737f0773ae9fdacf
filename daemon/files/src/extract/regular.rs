//! Regular files: written beside their place, put there when they are complete.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};

use super::{CHUNK_BYTES, ExtractError, Extraction, error::failed};
use crate::{
    attributes::Attributes, place::Temp, read::FormatError, sparse::Segment, xattr::Target,
};

impl Extraction<'_> {
    #[expect(clippy::too_many_arguments, reason = "one call, two callers beside it")]
    pub(super) fn regular(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
        size: u64,
        segments: &[Segment],
        mut body: impl Read,
    ) -> Result<(), ExtractError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temp, file) = Temp::new(dir, |temp| {
            fs::openat(dir, temp, flags, Mode::RUSR | Mode::WUSR)
        })
        .map_err(|source| failed("create", path, source))?;
        fs::ftruncate(&file, size).map_err(|error| failed("size", path, error.into()))?;
        for segment in segments {
            self.contents(&file, path, *segment, &mut body)?;
            self.summary.bytes += segment.length;
        }
        match body.read(&mut self.buffer[..1]) {
            Ok(0) => {}
            Ok(_) => {
                let why = "it has more contents than its map says";
                return Err(ExtractError::Format(FormatError::Header {
                    path: path.to_owned(),
                    why,
                }));
            }
            Err(error) => return Err(ExtractError::Format(FormatError::Stream(error))),
        }
        self.apply(attributes, Target::Open(file.as_fd()), path)?;
        temp.commit(name)
            .map_err(|source| failed("put in place", path, source))?;
        self.summary.files += 1;
        Ok(())
    }

    fn contents(
        &mut self,
        file: &OwnedFd,
        path: &Path,
        segment: Segment,
        body: &mut impl Read,
    ) -> Result<(), ExtractError> {
        let stream = |error| ExtractError::Format(FormatError::Stream(error));
        let mut at = segment.offset;
        let end = segment.offset + segment.length;
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(CHUNK_BYTES);
            let read = match body.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(stream(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(stream(error)),
            };
            let mut left = &self.buffer[..read];
            while !left.is_empty() {
                let written = match rustix::io::pwrite(file, left, at) {
                    Ok(written) => written,
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(failed("write", path, error.into())),
                };
                at += written as u64;
                left = &left[written..];
            }
        }
        Ok(())
    }
}
