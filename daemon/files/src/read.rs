//! Reads entries from a stream, strictly: what [`crate::write`] does not write is refused.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use tar::{EntryType, Header};

use crate::{
    attributes::{Attributes, MODE_BITS},
    item::{Item, KEY_ENTRIES, KEY_VERSION, Kind, VERSION, time_from_text, xattr_from_key},
    pax, roots,
};

/// Why a stream is not an archive of ours.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The stream could not be read, ended in the middle, or is not a tar archive.
    #[error("read the archive's stream")]
    Stream(#[source] io::Error),
    /// It ended before its last entry.
    #[error("the archive is incomplete: {found} entries, then nothing")]
    Incomplete {
        /// Entries that were there.
        found: u64,
    },
    /// The count at the end is not the number of entries.
    #[error("the archive counts {counted} entries but has {found}")]
    Count {
        /// As the archive says.
        counted: u64,
        /// As they came.
        found: u64,
    },
    /// It begins with something else, or has an unknown version.
    #[error("the archive does not begin with the header of version 1")]
    Version,
    /// An extended header is malformed or missing.
    #[error("entry {entry}: malformed extended header: {why}")]
    Extended {
        /// Number of the entry, from 0.
        entry: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An entry's name, or the target of a hard link, is not one that we write.
    #[error("entry {entry}: name {name:?} is not allowed")]
    Name {
        /// Number of the entry, from 0.
        entry: u64,
        /// The name.
        name: String,
    },
    /// An entry is of a kind that does not travel (a device, for example).
    #[error("{path:?} is of type {kind:?}, which is not allowed")]
    Kind {
        /// The entry.
        path: PathBuf,
        /// The type's letter in the header.
        kind: char,
    },
    /// A header's number is malformed, or it carries data where none belong.
    #[error("{path:?}: malformed header: {why}")]
    Header {
        /// The entry.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// Reads a stream entry by entry.
pub(crate) struct Items<'a, R: Read> {
    entries: tar::Entries<'a, R>,
    found: u64,
}

impl<'a, R: Read> Items<'a, R> {
    /// Reads the stream's first header.
    pub(crate) fn new(archive: &'a mut tar::Archive<R>) -> Result<Self, FormatError> {
        let entries = archive.entries().map_err(FormatError::Stream)?.raw(true);
        let mut items = Self { entries, found: 0 };
        match items.header()? {
            Some((header, body)) if header.entry_type().is_pax_global_extensions() => {
                let records = items.extended(header.entry_size().unwrap_or(u64::MAX), body)?;
                match pax::parse(&records).as_deref() {
                    Some([(KEY_VERSION, VERSION)]) => Ok(items),
                    _ => Err(FormatError::Version),
                }
            }
            _ => Err(FormatError::Version),
        }
    }

    /// The next entry with its contents (for a sparse file: the map, then the data), or `None` after
    /// the last one of a complete stream.
    pub(crate) fn next(&mut self) -> Result<Option<(Item, tar::Entry<'a, R>)>, FormatError> {
        let Some((header, body)) = self.header()? else {
            return Err(FormatError::Incomplete { found: self.found });
        };
        let size = header.entry_size().unwrap_or(u64::MAX);
        if header.entry_type().is_pax_global_extensions() {
            let records = self.extended(size, body)?;
            return self.end(&records).map(|()| None);
        }
        if !header.entry_type().is_pax_local_extensions() {
            return Err(self.malformed("it is missing"));
        }
        let records = self.extended(size, body)?;
        let Some((header, body)) = self.header()? else {
            return Err(FormatError::Incomplete { found: self.found });
        };
        let item = self.item(&records, &header)?;
        self.found += 1;
        Ok(Some((item, body)))
    }

    fn end(&mut self, records: &[u8]) -> Result<(), FormatError> {
        let counted = match pax::parse(records).as_deref() {
            Some([(KEY_ENTRIES, count)]) => pax::decimal(count),
            _ => None,
        };
        let found = self.found;
        match counted {
            Some(counted) if counted != found => Err(FormatError::Count { counted, found }),
            Some(_) if self.header()?.is_none() => Ok(()),
            _ => Err(self.malformed("the last one is not a count")),
        }
    }

    fn header(&mut self) -> Result<Option<(Header, tar::Entry<'a, R>)>, FormatError> {
        let entry = self
            .entries
            .next()
            .transpose()
            .map_err(FormatError::Stream)?;
        Ok(entry.map(|entry| (entry.header().clone(), entry)))
    }

    fn extended(&self, size: u64, mut body: impl Read) -> Result<Vec<u8>, FormatError> {
        let size = usize::try_from(size)
            .ok()
            .filter(|&size| size <= pax::PAX_BYTES_MAX);
        let size = size.ok_or_else(|| self.malformed("it is too large"))?;
        let mut records = vec![0; size];
        body.read_exact(&mut records).map_err(FormatError::Stream)?;
        Ok(records)
    }

    fn malformed(&self, why: &'static str) -> FormatError {
        FormatError::Extended {
            entry: self.found,
            why,
        }
    }

    fn item(&self, records: &[u8], header: &Header) -> Result<Item, FormatError> {
        let records = Records::parse(records).map_err(|why| self.malformed(why))?;
        let name = records
            .path
            .ok_or_else(|| self.malformed("it has no path"))?;
        let directory = header.entry_type().is_dir();
        let plain = if directory {
            name.strip_suffix(b"/").unwrap_or(name)
        } else {
            name
        };
        let path = self.path(plain)?;
        let wrong = |why| FormatError::Header {
            path: path.clone(),
            why,
        };
        let size = header.entry_size().map_err(|_| wrong("size"))?;
        let link = |what| records.linkpath.ok_or_else(|| wrong(what));
        let kind = match (header.entry_type(), records.sparse_size) {
            (EntryType::Regular, None) => Kind::Regular { size },
            (EntryType::Regular, Some(real)) => Kind::Sparse {
                size: real,
                stored: size,
            },
            (EntryType::Directory, None) => Kind::Directory,
            (EntryType::Symlink, None) => Kind::Symlink {
                target: link("no target")?.to_vec(),
            },
            (EntryType::Link, None) => Kind::HardLink {
                target: self.path(link("no target")?)?,
            },
            (EntryType::Fifo, None) => Kind::Fifo,
            (other, _) => {
                return Err(FormatError::Kind {
                    path,
                    kind: char::from(other.as_byte()),
                });
            }
        };
        if size != 0 && !matches!(kind, Kind::Regular { .. } | Kind::Sparse { .. }) {
            return Err(wrong("it has contents"));
        }
        let id = |value: io::Result<u64>| value.ok().and_then(|id| u32::try_from(id).ok());
        let attributes = Attributes {
            mode: header.mode().map_err(|_| wrong("mode"))? & MODE_BITS,
            uid: id(header.uid()).ok_or_else(|| wrong("owner"))?,
            gid: id(header.gid()).ok_or_else(|| wrong("group"))?,
            mtime: records.mtime.ok_or_else(|| wrong("no modification time"))?,
            xattrs: records.xattrs,
        };
        Ok(Item {
            path,
            attributes,
            kind,
        })
    }

    fn path(&self, name: &[u8]) -> Result<PathBuf, FormatError> {
        roots::path_of(name).ok_or_else(|| FormatError::Name {
            entry: self.found,
            name: String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned(),
        })
    }
}

/// The records of an entry's extended header that we write; others are refused.
#[derive(Default)]
struct Records<'a> {
    path: Option<&'a [u8]>,
    linkpath: Option<&'a [u8]>,
    mtime: Option<(i64, u32)>,
    sparse_size: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Records<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut out = Self::default();
        for (key, value) in pax::parse(bytes).ok_or("a record is malformed")? {
            match key {
                b"path" => out.path = Some(value),
                b"linkpath" => out.linkpath = Some(value),
                b"mtime" => out.mtime = Some(time_from_text(value).ok_or("mtime is malformed")?),
                b"GNU.sparse.realsize" => {
                    out.sparse_size = Some(pax::decimal(value).ok_or("size is malformed")?);
                }
                b"GNU.sparse.major" if value == b"1" => {}
                b"GNU.sparse.minor" if value == b"0" => {}
                b"GNU.sparse.name" => {}
                _ => {
                    let name = xattr_from_key(key).ok_or("a record is unknown")?;
                    out.xattrs.push((name, value.to_vec()));
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_stream_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut archive = tar::Archive::new(&bytes[..]);
            prop_assert!(Items::new(&mut archive).is_err());
        }
    }
}
