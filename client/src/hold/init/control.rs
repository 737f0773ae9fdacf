//! Window sizes to the terminal relay.
//!
//! Only the newest size matters: while the pipe is full (the workload is frozen), older ones are
//! replaced.

use std::os::fd::OwnedFd;

use lifeboat_proto::hold::WindowSize;

/// Bytes of a message: rows and columns, little endian.
pub const WINDOW_BYTES: usize = 4;

/// The hold's end of the pipe.
#[derive(Debug)]
pub(super) struct Control {
    fd: OwnedFd,
    waiting: Option<[u8; WINDOW_BYTES]>,
}

impl Control {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, waiting: None })
    }

    /// The pipe, if it is to be polled for room.
    pub(super) const fn wants_room(&self) -> Option<&OwnedFd> {
        if self.waiting.is_some() {
            Some(&self.fd)
        } else {
            None
        }
    }

    /// Sends a size.
    pub(super) fn send(&mut self, window: WindowSize) {
        self.waiting = Some(encode(window));
        self.flush();
    }

    /// Sends a slightly different size before the real one, so that a program that was drawn on
    /// another terminal draws itself again on this one.
    pub(super) fn redraw(&mut self, window: WindowSize) {
        let other = WindowSize {
            rows: window.rows.saturating_add(1),
            ..window
        };
        self.send(other);
        self.send(window);
    }

    pub(super) fn flush(&mut self) {
        let Some(bytes) = self.waiting else { return };
        // Writes of this size are whole or not at all (pipe(7)). A relay that has gone needs none.
        if rustix::io::write(&self.fd, &bytes) != Err(rustix::io::Errno::AGAIN) {
            self.waiting = None;
        }
    }
}

fn encode(window: WindowSize) -> [u8; WINDOW_BYTES] {
    let part = |size: u32| u16::try_from(size).unwrap_or(u16::MAX).to_le_bytes();
    let ([a, b], [c, d]) = (part(window.rows), part(window.columns));
    [a, b, c, d]
}

/// The size that [`WINDOW_BYTES`] bytes stand for.
#[must_use]
pub fn decode(bytes: [u8; WINDOW_BYTES]) -> WindowSize {
    let [a, b, c, d] = bytes;
    WindowSize {
        rows: u16::from_le_bytes([a, b]).into(),
        columns: u16::from_le_bytes([c, d]).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn only_the_newest_size_waits_for_a_relay_that_does_not_read() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut control = Control::new(writer.into()).unwrap();
        let size = |rows| WindowSize { rows, columns: 80 };
        let mut rows = 1;
        while control.wants_room().is_none() {
            control.send(size(rows));
            rows += 1;
        }
        control.send(size(40_000));
        let mut bytes = [0; WINDOW_BYTES];
        for expected in 1..rows - 1 {
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(decode(bytes), size(expected));
            control.flush();
        }
        assert!(control.wants_room().is_none());
        drop(control);
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(decode(bytes), size(40_000));
        assert_eq!(reader.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn a_redraw_ends_with_the_real_size() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut control = Control::new(writer.into()).unwrap();
        let size = WindowSize {
            rows: 24,
            columns: 80,
        };
        control.redraw(size);
        drop(control);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let sizes: Vec<WindowSize> = bytes
            .as_chunks::<WINDOW_BYTES>()
            .0
            .iter()
            .map(|bytes| decode(*bytes))
            .collect();
        assert_eq!(
            sizes,
            [
                WindowSize {
                    rows: 25,
                    columns: 80
                },
                size
            ]
        );
    }
}
