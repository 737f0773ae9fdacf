//! Writes entries to a stream.
//!
//! Every entry is a pax extended header and a ustar header. Names and times are always in the
//! extended header, sizes and owners in the ustar header (GNU's base-256 form if they are large).
//! The stream begins with a global header that gives the version, and ends with one that counts the
//! entries: without that one it is incomplete.

use std::io::{self, Write};

use tar::{Builder, EntryType, Header};

use crate::{
    item::{Item, KEY_ENTRIES, KEY_VERSION, Kind, VERSION, time_to_text, xattr_to_key},
    pax, roots,
};

/// Begins a stream.
pub(crate) fn start(out: &mut Builder<impl Write>) -> io::Result<()> {
    let mut records = Vec::new();
    pax::push(&mut records, KEY_VERSION, VERSION);
    extended(out, EntryType::XGlobalHeader, &records)
}

/// Ends a stream of `entries` entries.
pub(crate) fn end(out: &mut Builder<impl Write>, entries: u64) -> io::Result<()> {
    let mut records = Vec::new();
    pax::push(&mut records, KEY_ENTRIES, entries.to_string().as_bytes());
    extended(out, EntryType::XGlobalHeader, &records)?;
    out.finish()?;
    out.get_mut().flush()
}

/// Writes the headers of an entry; the contents, filled up to a block, are the caller's.
/// `InvalidInput` if the attributes are larger than an extended header may be.
pub(crate) fn item(out: &mut Builder<impl Write>, item: &Item) -> io::Result<()> {
    let mut name = roots::name_of(&item.path).to_vec();
    if item.kind == Kind::Directory {
        name.push(b'/');
    }
    let (kind, size) = match &item.kind {
        Kind::Directory => (EntryType::Directory, 0),
        Kind::Regular { size } => (EntryType::Regular, *size),
        Kind::Sparse { stored, .. } => (EntryType::Regular, *stored),
        Kind::Symlink { .. } => (EntryType::Symlink, 0),
        Kind::HardLink { .. } => (EntryType::Link, 0),
        Kind::Fifo => (EntryType::Fifo, 0),
    };
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(item.attributes.mode);
    header.set_uid(item.attributes.uid.into());
    header.set_gid(item.attributes.gid.into());
    header.set_mtime(u64::try_from(item.attributes.mtime.0).unwrap_or_default());
    if let Some(ustar) = header.as_ustar_mut() {
        let length = name.len().min(ustar.name.len());
        ustar.name[..length].copy_from_slice(&name[..length]);
    }
    header.set_cksum();
    extended(out, EntryType::XHeader, &records(item, &name))?;
    out.append(&header, io::empty())
}

/// The records of an entry's extended header.
fn records(item: &Item, name: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    pax::push(&mut records, b"path", name);
    pax::push(
        &mut records,
        b"mtime",
        time_to_text(item.attributes.mtime).as_bytes(),
    );
    match &item.kind {
        Kind::Sparse { size, .. } => {
            pax::push(&mut records, b"GNU.sparse.major", b"1");
            pax::push(&mut records, b"GNU.sparse.minor", b"0");
            pax::push(&mut records, b"GNU.sparse.name", name);
            pax::push(
                &mut records,
                b"GNU.sparse.realsize",
                size.to_string().as_bytes(),
            );
        }
        Kind::Symlink { target } => pax::push(&mut records, b"linkpath", target),
        Kind::HardLink { target } => {
            pax::push(&mut records, b"linkpath", roots::name_of(target));
        }
        Kind::Directory | Kind::Regular { .. } | Kind::Fifo => {}
    }
    for (xattr, value) in &item.attributes.xattrs {
        pax::push(&mut records, &xattr_to_key(xattr), value);
    }
    records
}

fn extended(out: &mut Builder<impl Write>, kind: EntryType, records: &[u8]) -> io::Result<()> {
    if records.len() > pax::PAX_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} bytes of names and extended attributes are too many",
                records.len()
            ),
        ));
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(records.len() as u64);
    if let Some(ustar) = header.as_ustar_mut() {
        let name = b"lifeboat.pax";
        ustar.name[..name.len()].copy_from_slice(name);
    }
    header.set_cksum();
    out.append(&header, records)
}
