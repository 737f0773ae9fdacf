//! Carries the bytes of one stream from a source to a sink.
//!
//! Guarantees:
//! - bytes arrive in order and exactly once;
//! - nothing is read before the sink has room, so next to nothing is ever held here: what a pump
//!   has not read stays in the source, for whoever reads it next;
//! - nothing blocks, whatever the descriptors' flags: a sink that could block is given at most
//!   [`SAFE_WRITE_BYTES`] at a time, and only when it has room;
//! - a terminal is read only while this process is in its foreground, so that a hold in the
//!   background does not steal the shell's input.
//!
//! A sink whose reader has gone ends the pump: both ends are closed, and the writer before it sees
//! what it would have seen without a pump.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags},
    io::Errno,
    termios::{LocalModes, SpecialCodeIndex},
};

/// Bytes that fit into any pipe that poll(2) calls writable (`PIPE_BUF`, pipe(7)).
pub const SAFE_WRITE_BYTES: usize = 4096;

/// Bytes that are moved at once into a sink that does not block.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that one call moves at most, so that one busy stream does not starve the others.
const CHUNKS_PER_STEP: usize = 16;

/// What a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: it is done.
    Done,
    /// Bytes.
    Source,
    /// Room.
    Sink,
    /// To be in the foreground of its terminal; nothing tells, so look again after a while.
    Foreground,
}

/// What happens to the sink when the source has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It is closed.
    Close,
    /// It is a terminal's master side: the end of input is typed (usually Ctrl-D) if the program
    /// reads whole lines. There is no other way to tell it.
    TypeEnd,
}

/// Where bytes come from.
#[derive(Debug)]
pub struct Source {
    fd: OwnedFd,
    nonblocking: bool,
    terminal: bool,
}

/// Where bytes go to.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    nonblocking: bool,
}

/// One stream.
#[derive(Debug)]
pub struct Pump {
    source: Option<Source>,
    sink: Option<Sink>,
    at_end: AtEnd,
    /// Read but not written yet.
    held: Vec<u8>,
    written: usize,
    full: bool,
    chunk: usize,
}

impl Source {
    /// A pipe or terminal end that belongs to this process alone; it becomes non-blocking.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn owned(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            nonblocking: true,
            terminal: false,
        })
    }

    /// A descriptor that is shared with other processes, whose flags must not change.
    #[must_use]
    pub fn shared(fd: OwnedFd) -> Self {
        let terminal = rustix::termios::isatty(&fd);
        Self {
            fd,
            nonblocking: false,
            terminal,
        }
    }

    /// A shared descriptor that is read whether or not this process is in the foreground.
    #[must_use]
    pub const fn blocking(fd: OwnedFd) -> Self {
        Self {
            fd,
            nonblocking: false,
            terminal: false,
        }
    }

    fn in_background(&self) -> bool {
        self.terminal && !is_foreground(&self.fd)
    }
}

impl Sink {
    /// A pipe or terminal end that belongs to this process alone; it becomes non-blocking.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn owned(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            nonblocking: true,
        })
    }

    /// A descriptor that is shared with other processes, whose flags must not change. Pipes and
    /// terminals are opened once more, so that writing never blocks; where that is not possible,
    /// small writes do.
    #[must_use]
    pub fn shared(fd: OwnedFd) -> Self {
        reopen(&fd).map_or(
            Self {
                fd,
                nonblocking: false,
            },
            |fd| Self {
                fd,
                nonblocking: true,
            },
        )
    }

    /// A descriptor that is given small writes only, whatever its flags are or become.
    #[must_use]
    pub const fn careful(fd: OwnedFd) -> Self {
        Self {
            fd,
            nonblocking: false,
        }
    }
}

impl Pump {
    /// A pump from `source` to `sink`.
    #[must_use]
    pub fn new(source: Source, sink: Sink, at_end: AtEnd) -> Self {
        let chunk = if sink.nonblocking {
            CHUNK_BYTES
        } else {
            SAFE_WRITE_BYTES
        };
        Self {
            source: Some(source),
            sink: Some(sink),
            at_end,
            held: Vec::new(),
            written: 0,
            full: false,
            chunk,
        }
    }

    /// Reads no more at once than any sink takes at once, so that (as long as the sink's only
    /// writer is this pump) not one byte is held.
    #[must_use]
    pub const fn in_small_steps(mut self) -> Self {
        self.chunk = SAFE_WRITE_BYTES;
        self
    }

    /// Sends `bytes` before everything that comes from the source.
    pub fn send_first(&mut self, bytes: &[u8]) {
        self.held.drain(..self.written);
        self.written = 0;
        self.held.splice(..0, bytes.iter().copied());
    }

    /// What it waits for now.
    #[must_use]
    pub fn wait(&self) -> Wait {
        if self.sink.is_none() {
            Wait::Done
        } else if self.full || self.written < self.held.len() {
            Wait::Sink
        } else {
            match &self.source {
                None => Wait::Sink,
                Some(source) if source.in_background() => Wait::Foreground,
                Some(_) => Wait::Source,
            }
        }
    }

    /// The source, for polling.
    #[must_use]
    pub fn source(&self) -> Option<&OwnedFd> {
        self.source.as_ref().map(|source| &source.fd)
    }

    /// The sink, for polling.
    #[must_use]
    pub fn sink(&self) -> Option<&OwnedFd> {
        self.sink.as_ref().map(|sink| &sink.fd)
    }

    /// Closes both ends. What is held is lost.
    pub fn close(&mut self) {
        self.source = None;
        self.sink = None;
        self.held.clear();
        self.written = 0;
    }

    /// Moves what can be moved now. Call it when what [`Pump::wait`] says is ready.
    ///
    /// # Errors
    /// What read(2) or write(2) report, other than that an end has gone.
    pub fn step(&mut self) -> io::Result<()> {
        self.run(false)
    }

    /// Moves what is left when nobody writes to the source any more; an empty source is its end,
    /// even if somebody still has it open.
    ///
    /// # Errors
    /// As [`Pump::step`].
    pub fn drain(&mut self) -> io::Result<()> {
        self.run(true)
    }

    fn run(&mut self, empty_is_end: bool) -> io::Result<()> {
        for _ in 0..CHUNKS_PER_STEP {
            let Some(sink) = &self.sink else {
                return Ok(());
            };
            match room(&sink.fd) {
                Room::Gone => {
                    self.close();
                    return Ok(());
                }
                Room::Full => {
                    self.full = true;
                    return Ok(());
                }
                Room::Some => self.full = false,
            }
            if self.written < self.held.len() {
                self.write()?;
                continue;
            }
            let Some(source) = &self.source else {
                self.close();
                return Ok(());
            };
            if source.in_background() {
                return Ok(());
            }
            let once = !source.nonblocking;
            if !self.read(empty_is_end)? {
                return Ok(());
            }
            self.write()?;
            if once {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a chunk. `false`: there is nothing now.
    fn read(&mut self, empty_is_end: bool) -> io::Result<bool> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        self.held.resize(self.chunk, 0);
        self.written = 0;
        let result = rustix::io::read(&source.fd, self.held.as_mut_slice());
        self.held.truncate(*result.as_ref().unwrap_or(&0));
        match result {
            // A terminal whose other side has gone says EIO.
            Ok(0) | Err(Errno::IO | Errno::CONNRESET) => self.end(),
            Ok(_) => {}
            Err(Errno::AGAIN) if empty_is_end => self.end(),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }

    fn end(&mut self) {
        self.source = None;
        if self.at_end == AtEnd::TypeEnd
            && let Some(sink) = &self.sink
            && let Some(end) = end_of_input(&sink.fd)
        {
            self.held = vec![end];
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(sink) = &self.sink else {
            return Ok(());
        };
        let rest = &self.held[self.written..];
        let safe = if sink.nonblocking {
            rest.len()
        } else {
            rest.len().min(SAFE_WRITE_BYTES)
        };
        if safe == 0 {
            return Ok(());
        }
        match rustix::io::write(&sink.fd, &rest[..safe]) {
            Ok(written) => self.written += written,
            Err(Errno::AGAIN) => self.full = true,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::IO | Errno::CONNRESET) => self.close(),
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

/// Whether this process is in the foreground of the terminal, so that it may read it. What is not
/// this session's terminal may be read at any time.
#[must_use]
pub fn is_foreground(terminal: impl AsFd) -> bool {
    match rustix::termios::tcgetpgrp(terminal) {
        Ok(foreground) => foreground == rustix::process::getpgrp(),
        Err(_) => true,
    }
}

enum Room {
    Some,
    Full,
    Gone,
}

fn room(sink: &OwnedFd) -> Room {
    let mut polled = [PollFd::new(sink, PollFlags::OUT)];
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut polled, Some(&none)) {
        Ok(_) if polled[0].revents().contains(PollFlags::ERR) => Room::Gone,
        Ok(0) | Err(_) => Room::Full,
        Ok(_) => Room::Some,
    }
}

/// Opens a pipe or a terminal once more, for non-blocking writes that nobody else notices.
fn reopen(fd: &OwnedFd) -> Option<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).ok()?.st_mode);
    let known = kind == FileType::Fifo || rustix::termios::isatty(fd);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    known
        .then(|| rustix::fs::open(path, flags, Mode::empty()).ok())
        .flatten()
}

/// The character that means the end of input, if the program behind the terminal reads lines.
fn end_of_input(terminal: &OwnedFd) -> Option<u8> {
    let modes = rustix::termios::tcgetattr(terminal).ok()?;
    let lines = modes.local_modes.contains(LocalModes::ICANON);
    lines.then(|| modes.special_codes[SpecialCodeIndex::VEOF])
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn pump(chunked: bool) -> (io::PipeWriter, Pump, io::PipeReader) {
        let (from, writer) = io::pipe().unwrap();
        let (reader, to) = io::pipe().unwrap();
        let sink = if chunked {
            Sink {
                fd: to.into(),
                nonblocking: false,
            }
        } else {
            Sink::owned(to.into()).unwrap()
        };
        (
            writer,
            Pump::new(Source::owned(from.into()).unwrap(), sink, AtEnd::Close),
            reader,
        )
    }

    #[test]
    fn nothing_is_read_while_the_sink_is_full() {
        let (mut writer, mut pump, mut reader) = pump(true);
        let sent: Vec<u8> = (0..128 * 1024_u32).map(|i| (i % 251) as u8).collect();
        writer.write_all(&sent[..64 * 1024]).unwrap();
        for _ in 0..4 {
            pump.step().unwrap();
        }
        writer.write_all(&sent[64 * 1024..]).unwrap();
        drop(writer);
        pump.step().unwrap();
        assert_eq!(pump.wait(), Wait::Sink);
        assert_eq!(pump.held.len(), pump.written, "nothing is held");
        let mut got = Vec::new();
        let mut buffer = [0; 1024];
        while pump.wait() != Wait::Done {
            let read = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..read]);
            pump.step().unwrap();
        }
        reader.read_to_end(&mut got).unwrap();
        assert!(got == sent);
    }

    #[test]
    fn bytes_put_first_come_before_the_source() {
        let (mut writer, mut pump, mut reader) = pump(false);
        writer.write_all(b"world").unwrap();
        drop(writer);
        pump.send_first(b"hello ");
        while pump.wait() != Wait::Done {
            pump.step().unwrap();
        }
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hello world");
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_pump_and_the_writer_notices() {
        let (mut writer, mut pump, reader) = pump(false);
        drop(reader);
        pump.step().unwrap();
        assert_eq!(pump.wait(), Wait::Done);
        assert_eq!(
            writer.write(b"x").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn draining_ends_at_an_empty_pipe_that_somebody_still_has_open() {
        let (mut writer, mut pump, mut reader) = pump(false);
        writer.write_all(b"last words").unwrap();
        pump.drain().unwrap();
        while pump.wait() != Wait::Done {
            pump.drain().unwrap();
        }
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "last words");
        drop(writer);
    }
}
