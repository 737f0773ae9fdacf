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

use std::{io, os::fd::OwnedFd};

use rustix::io::Errno;

use super::ends::{Room, Sink, Source, end_of_input, room};

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

#[cfg(test)]
mod tests;
