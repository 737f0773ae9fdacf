//! `files.img`: what the processes have open, and `pipes-data.img`: what lies in their pipes.

use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use bytes::Bytes;
use prost::Message;

use super::{ImageSet, ImagesError, frame::Reader};

pub(super) const FILES_MAGIC: u32 = 0x5630_3138;
const PIPES_DATA_MAGIC: u32 = 0x5645_3709;

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint32, required, tag = "1")]
    kind: u32,
    #[prost(uint32, required, tag = "2")]
    id: u32,
    #[prost(message, optional, tag = "3")]
    regular: Option<Regular>,
    #[prost(message, optional, tag = "4")]
    inet: Option<Inet>,
    #[prost(message, optional, tag = "16")]
    unix: Option<Unix>,
    #[prost(message, optional, tag = "18")]
    pipe: Option<Pipe>,
}

// Names are bytes on Linux; prost would refuse a string that is not UTF-8.
#[derive(Clone, PartialEq, Message)]
struct Regular {
    #[prost(uint32, required, tag = "2")]
    flags: u32,
    #[prost(bytes = "bytes", required, tag = "6")]
    name: Bytes,
    #[prost(bool, optional, tag = "9")]
    external: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    mode: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Inet {
    #[prost(uint32, required, tag = "4")]
    kind: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Unix {
    #[prost(uint32, required, tag = "5")]
    flags: u32,
    #[prost(bytes = "bytes", required, tag = "11")]
    name: Bytes,
    #[prost(bytes = "bytes", optional, tag = "14")]
    name_dir: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Pipe {
    #[prost(uint32, required, tag = "2")]
    pipe_id: u32,
    #[prost(uint32, required, tag = "3")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PipeData {
    #[prost(uint32, required, tag = "1")]
    pipe_id: u32,
    #[prost(uint32, required, tag = "2")]
    bytes: u32,
}

/// What kind of file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A file or directory with a path.
    Regular,
    /// A pipe.
    Pipe,
    /// A named pipe.
    Fifo,
    /// An internet socket.
    Inet,
    /// An internet socket that sees whole packets.
    InetRaw,
    /// A Unix socket.
    Unix,
    /// Events, timers, signals, notifications, process descriptors: nothing outside of the tree.
    Event,
    /// A terminal.
    Terminal,
    /// Anonymous memory.
    Memory,
    /// A netlink socket.
    Netlink,
    /// A socket that sees whole frames of a network device.
    Packet,
    /// A file system monitor of fanotify(7).
    Fanotify,
    /// A namespace.
    Namespace,
    /// Anything else: tunnels, BPF maps, external files.
    Other(u32),
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// CRIU's identifier.
    pub id: u32,
    /// What it is.
    pub kind: FileKind,
    /// Its path in the workload's root: of a file, or of a Unix socket that has one.
    pub path: Option<PathBuf>,
    /// `O_*` of open(2).
    pub flags: u32,
    /// Type and permissions (`st_mode`), where CRIU stored them.
    pub mode: Option<u32>,
    /// Inode of a pipe (its low 32 bits).
    pub pipe: Option<u32>,
    /// Given from outside, by `--external`.
    pub external: bool,
}

impl Entry {
    fn kind(&self) -> FileKind {
        const SOCK_STREAM: u32 = 1;
        const SOCK_DGRAM: u32 = 2;
        match self.kind {
            1 => FileKind::Regular,
            2 => FileKind::Pipe,
            3 => FileKind::Fifo,
            4 => match self.inet.as_ref().map(|inet| inet.kind) {
                Some(SOCK_STREAM | SOCK_DGRAM) => FileKind::Inet,
                _ => FileKind::InetRaw,
            },
            5 => FileKind::Unix,
            6..=9 | 17 | 20 => FileKind::Event,
            10 => FileKind::Packet,
            11 => FileKind::Terminal,
            12 => FileKind::Fanotify,
            13 => FileKind::Netlink,
            14 => FileKind::Namespace,
            18 => FileKind::Memory,
            other => FileKind::Other(other),
        }
    }

    fn open_file(self) -> OpenFile {
        let kind = self.kind();
        let mut file = OpenFile {
            id: self.id,
            kind,
            path: None,
            flags: 0,
            mode: None,
            pipe: None,
            external: false,
        };
        if let Some(regular) = self.regular {
            file.path = Some(path(&regular.name));
            file.flags = regular.flags;
            file.mode = regular.mode;
            file.external = regular.external.unwrap_or(false);
        }
        if let Some(unix) = self.unix {
            // An abstract name begins with a zero and is no path.
            if unix.name.first().is_some_and(|first| *first != 0) {
                let directory = unix.name_dir.as_deref().map(path).unwrap_or_default();
                let name = unix.name.strip_suffix(&[0]).unwrap_or(&unix.name);
                file.path = Some(directory.join(path(name)));
            }
            file.flags = unix.flags;
        }
        if let Some(pipe) = self.pipe {
            file.pipe = Some(pipe.pipe_id);
            file.flags = pipe.flags;
        }
        file
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// Everything that is open, by any process, or mapped, or a working directory.
pub(super) fn open_files(images: &ImageSet) -> Result<Vec<OpenFile>, ImagesError> {
    let name = "files.img";
    let mut reader = Reader::new(name, images.required(name)?, FILES_MAGIC)?;
    let mut files = Vec::new();
    while let Some(entry) = reader.entry::<Entry>()? {
        files.push(entry.open_file());
    }
    Ok(files)
}

/// Unread bytes of pipes, by the low 32 bits of their inodes.
pub(super) fn pipe_data(images: &ImageSet) -> Result<BTreeMap<u32, Bytes>, ImagesError> {
    let name = "pipes-data.img";
    let Some(bytes) = images.get(name) else {
        return Ok(BTreeMap::new());
    };
    let mut reader = Reader::new(name, bytes, PIPES_DATA_MAGIC)?;
    let mut pipes = BTreeMap::new();
    while let Some(entry) = reader.entry::<PipeData>()? {
        let data = reader.raw(u64::from(entry.bytes))?;
        if pipes.insert(entry.pipe_id, data).is_some() {
            return Err(reader.malformed("each pipe once"));
        }
    }
    Ok(pipes)
}
