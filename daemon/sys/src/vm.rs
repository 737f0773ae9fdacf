//! Memory of another process: many runs of pages into one buffer.
//!
//! process_vm_readv(2) in large batches; what it cannot read (pages that the process itself may
//! not read) goes through `/proc/PID/mem`, which was opened once and stays bound to the address
//! space of that moment. So does what the process shares copy-on-write with its parent or children,
//! or has merged (KSM): process_vm_readv pins pages, and the kernel gives a process a copy of its own
//! of each shared anonymous page that is pinned (`gup_must_unshare`, mm/gup.c, kernel 5.19). Reading
//! a prefork server that way would multiply its memory. A page that cannot be read is an error that names its address. There are
//! never silent zeros: holes of private memory do read as zeros, as for the process itself.
//!
//! The process must be stopped, or the caller must know that what it reads may be torn. A read
//! waits for a page that a userfaultfd has not delivered yet; whoever serves that userfaultfd must
//! not read through here on the same thread.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    os::unix::fs::FileExt,
};

use lifeboat_proto::units::{PageIndex, PageRun, RemoteAddr};
use nix::sys::uio::RemoteIoVec;
use rustix::process::Pid;

use crate::pagemap::{Entry, Pagemap};

/// Most pieces in one call (`IOV_MAX`, the kernel's `UIO_MAXIOV`).
pub const PIECES_MAX: usize = 1024;

/// Pages that are asked about at once, whether they are shared.
const ASKED_PAGES: usize = 512;

/// The address space of another process.
#[derive(Debug)]
pub struct RemoteMemory {
    pid: Pid,
    mem: File,
    /// Tells what is shared.
    pagemap: Option<Pagemap>,
}

/// Why memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The process has ended, or replaced its address space by exec.
    #[error("the address space of process {pid} is gone")]
    Gone {
        /// Number of the process.
        pid: i32,
    },
    /// `/proc/PID/mem` could not be opened.
    #[error("open the memory of process {pid}")]
    Open {
        /// Number of the process.
        pid: i32,
        /// The kernel's answer; EACCES or EPERM: no ptrace access.
        source: io::Error,
    },
    /// Memory could not be read from this address on.
    #[error("read memory of process {pid} at {addr}")]
    Read {
        /// Number of the process.
        pid: i32,
        /// The first byte that could not be read.
        addr: RemoteAddr,
        /// The kernel's answer; EIO or EFAULT: nothing is mapped there, or it cannot be read.
        source: io::Error,
    },
    /// Memory could not be written from this address on.
    #[error("write memory of process {pid} at {addr}")]
    Write {
        /// Number of the process.
        pid: i32,
        /// The first byte that could not be written.
        addr: RemoteAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The caller's buffer does not have the size of the runs.
    #[error("a buffer of {buffer} bytes for runs of {runs} bytes")]
    BufferSize {
        /// Size of the buffer, in bytes.
        buffer: usize,
        /// Size of the runs, in bytes.
        runs: u64,
    },
}

impl VmError {
    /// The process has ended or executed another program.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// Where a read stands: bytes done in all, and the piece they end in.
struct Cursor<'a> {
    pieces: &'a [(RemoteAddr, u64)],
    /// The piece that is being read.
    piece: usize,
    /// Bytes of it that are done.
    offset: u64,
}

impl RemoteMemory {
    /// Opens the memory of process `pid` as it is now; after an exec everything is
    /// [`VmError::Gone`].
    ///
    /// # Errors
    /// [`VmError::Gone`] or [`VmError::Open`].
    pub fn open(pid: Pid) -> Result<Self, VmError> {
        let number = pid.as_raw_nonzero().get();
        match File::open(format!("/proc/{number}/mem")) {
            Ok(mem) => Ok(Self {
                pid,
                mem,
                pagemap: Pagemap::open(pid).ok(),
            }),
            Err(error) if is_no_process(&error) => Err(VmError::Gone { pid: number }),
            Err(source) => Err(VmError::Open {
                pid: number,
                source,
            }),
        }
    }

    /// Number of the process.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Reads the pages of `runs`, in that order, into `buffer`, which must have exactly their
    /// size. After an error the buffer's content is undefined.
    ///
    /// # Errors
    /// [`VmError`]; [`VmError::Read`] names the first address that could not be read.
    pub fn read_runs(&self, runs: &[PageRun], buffer: &mut [u8]) -> Result<(), VmError> {
        let size = runs
            .iter()
            .fold(0_u64, |sum, run| sum.saturating_add(run.bytes()));
        if u64::try_from(buffer.len()) != Ok(size) {
            return Err(VmError::BufferSize {
                buffer: buffer.len(),
                runs: size,
            });
        }
        let pieces: Vec<_> = runs
            .iter()
            .map(|run| (run.start.addr(), run.bytes()))
            .collect();
        self.read_pieces(&pieces, buffer)
    }

    /// Fills `buffer` from `addr` on.
    ///
    /// # Errors
    /// [`VmError`]; [`VmError::Read`] names the first address that could not be read.
    pub fn read(&self, addr: RemoteAddr, buffer: &mut [u8]) -> Result<(), VmError> {
        let size = buffer.len() as u64;
        self.read_pieces(&[(addr, size)], buffer)
    }

    fn read_pieces(&self, pieces: &[(RemoteAddr, u64)], buffer: &mut [u8]) -> Result<(), VmError> {
        let mut cursor = Cursor {
            pieces,
            piece: 0,
            offset: 0,
        };
        let gently = self.has_shared(pieces);
        let mut done = 0;
        while done < buffer.len() {
            let batch = if gently {
                Ok(0)
            } else {
                self.read_batch(&cursor, &mut buffer[done..])
            };
            let read = match batch {
                Ok(0) | Err(nix::Error::EFAULT) => {
                    self.read_rest_of_piece(&cursor, &mut buffer[done..])?
                }
                Ok(read) => read,
                Err(nix::Error::EINTR) => continue,
                Err(nix::Error::ESRCH) => return Err(VmError::Gone { pid: self.number() }),
                Err(errno) => return Err(self.read_error(cursor.addr(), errno.into())),
            };
            done += read;
            cursor.advance(read as u64);
        }
        self.check_alive(pieces)
    }

    /// Whether a page of these pieces is shared with another process. Of what cannot be asked about it
    /// is not known, and pieces far apart are asked about one by one.
    fn has_shared(&self, pieces: &[(RemoteAddr, u64)]) -> bool {
        let Some(pagemap) = &self.pagemap else {
            return false;
        };
        let mut entries = [Entry::default(); ASKED_PAGES];
        let mut asked = PageRun::new(PageIndex(0), 0);
        for (addr, bytes) in pieces {
            let end = RemoteAddr(addr.0.saturating_add(*bytes));
            let piece = PageRun::covering(*addr, end);
            let mut from = piece.start.max(asked.end().min(piece.end()));
            if piece.start < asked.start {
                from = piece.start;
            }
            while from < piece.end() {
                // What lies behind is asked about too: the next pieces are mostly there.
                asked = PageRun::new(from, ASKED_PAGES as u64);
                if pagemap.entries(from, &mut entries).is_err() {
                    return false;
                }
                let shared = |entry: &Entry| {
                    entry.is_present() && !entry.is_exclusive() && !entry.is_file_or_shared()
                };
                if entries.iter().any(shared) {
                    return true;
                }
                from = asked.end();
            }
        }
        false
    }

    /// As many pieces as fit into one call; returns the bytes read, which end anywhere.
    fn read_batch(&self, cursor: &Cursor<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
        let mut remote = [RemoteIoVec { base: 0, len: 0 }; PIECES_MAX];
        let (count, bytes) = cursor.fill(&mut remote, buffer.len());
        let mut local = [IoSliceMut::new(&mut buffer[..bytes])];
        nix::sys::uio::process_vm_readv(self.nix_pid(), &mut local, &remote[..count])
    }

    /// The slow path: follows mappings that the process itself may not read (`FOLL_FORCE`), and pins
    /// nothing.
    fn read_rest_of_piece(&self, cursor: &Cursor<'_>, buffer: &mut [u8]) -> Result<usize, VmError> {
        let left = usize::try_from(cursor.left())
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut done = 0;
        while done < left {
            let addr = RemoteAddr(cursor.addr().0.saturating_add(done as u64));
            match self.mem.read_at(&mut buffer[done..left], addr.0) {
                Ok(0) => return Err(VmError::Gone { pid: self.number() }),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.read_error(addr, source)),
            }
        }
        Ok(done)
    }

    /// process_vm_readv goes by number: what was read is that of the right process only if the
    /// address space behind the descriptor still lives after it.
    fn check_alive(&self, pieces: &[(RemoteAddr, u64)]) -> Result<(), VmError> {
        let Some((addr, _)) = pieces.iter().find(|(_, size)| *size > 0) else {
            return Ok(());
        };
        match self.mem.read_at(&mut [0], addr.0) {
            Ok(0) => Err(VmError::Gone { pid: self.number() }),
            // An error is that of the page, which belongs to a living address space.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Writes `bytes` at `addr` (process_vm_writev(2)). Pages that the process may not write are
    /// refused.
    ///
    /// # Errors
    /// [`VmError::Gone`] or [`VmError::Write`]; some bytes may have been written.
    pub fn write(&self, addr: RemoteAddr, bytes: &[u8]) -> Result<(), VmError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = RemoteAddr(addr.0.saturating_add(done as u64));
            let rest = &bytes[done..];
            let remote = [RemoteIoVec {
                base: pointer(at.0),
                len: rest.len(),
            }];
            let local = [IoSlice::new(rest)];
            match nix::sys::uio::process_vm_writev(self.nix_pid(), &local, &remote) {
                Ok(0) => return Err(self.write_error(at, io::ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ESRCH) => return Err(VmError::Gone { pid: self.number() }),
                Err(errno) => return Err(self.write_error(at, errno.into())),
            }
        }
        Ok(())
    }

    fn read_error(&self, addr: RemoteAddr, source: io::Error) -> VmError {
        VmError::Read {
            pid: self.number(),
            addr,
            source,
        }
    }

    fn write_error(&self, addr: RemoteAddr, source: io::Error) -> VmError {
        VmError::Write {
            pid: self.number(),
            addr,
            source,
        }
    }

    const fn number(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    const fn nix_pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.number())
    }
}

impl Cursor<'_> {
    /// Address of the next byte.
    fn addr(&self) -> RemoteAddr {
        let start = self.pieces.get(self.piece).map_or(0, |(addr, _)| addr.0);
        RemoteAddr(start.saturating_add(self.offset))
    }

    /// Bytes left of the current piece.
    fn left(&self) -> u64 {
        self.pieces
            .get(self.piece)
            .map_or(0, |(_, size)| size - self.offset)
    }

    fn advance(&mut self, mut bytes: u64) {
        while let Some((_, size)) = self.pieces.get(self.piece) {
            let left = size - self.offset;
            if bytes < left {
                self.offset += bytes;
                return;
            }
            bytes -= left;
            self.piece += 1;
            self.offset = 0;
        }
    }

    /// Describes what comes next, up to `room` bytes; returns the number of pieces and bytes.
    fn fill(&self, remote: &mut [RemoteIoVec], room: usize) -> (usize, usize) {
        let (mut count, mut bytes, mut offset) = (0, 0, self.offset);
        for (addr, size) in &self.pieces[self.piece..] {
            if count == remote.len() || bytes == room {
                break;
            }
            let left = usize::try_from(size - offset)
                .unwrap_or(usize::MAX)
                .min(room - bytes);
            if left > 0 {
                remote[count] = RemoteIoVec {
                    base: pointer(addr.0.saturating_add(offset)),
                    len: left,
                };
                count += 1;
                bytes += left;
            }
            offset = 0;
        }
        (count, bytes)
    }
}

/// Both are 64 bits wide on every supported machine.
fn pointer(addr: u64) -> usize {
    usize::try_from(addr).unwrap_or(usize::MAX)
}

/// What opening something under `/proc/PID` answers when the process is not there.
fn is_no_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}
