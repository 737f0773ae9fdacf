//! What a userfaultfd tells.

use std::{
    fmt,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use lifeboat_proto::units::{PageRun, RemoteAddr};
use linux_raw_sys::general as raw;
use rustix::io::Errno;

use super::{Uffd, UffdError};

/// Most events read at once.
pub const EVENTS_MAX: usize = 64;

/// Size of a `struct uffd_msg`, in bytes.
const MESSAGE_BYTES: usize = 32;

const _: () = assert!(size_of::<raw::uffd_msg>() == MESSAGE_BYTES);

/// Something that happened to registered memory. See the rules of [`crate::uffd`].
#[derive(Debug)]
pub enum Event {
    /// A thread waits for a page.
    PageFault {
        /// The address it touched; its page's first byte without [`super::Features::EXACT_ADDRESS`].
        addr: RemoteAddr,
        /// How.
        flags: FaultFlags,
        /// Which thread, in the pid namespace of whoever made the userfaultfd; only with
        /// [`super::Features::THREAD_ID`].
        thread: Option<u32>,
    },
    /// The process forked.
    Fork {
        /// The userfaultfd of the child, with the same features and ranges.
        child: Uffd,
    },
    /// A range moved.
    Remap {
        /// Where it was.
        from: RemoteAddr,
        /// Where it is.
        to: RemoteAddr,
        /// Its size before, in bytes.
        length: u64,
    },
    /// The content of a range is about to be dropped; it stays mapped and reads as zeros.
    Remove {
        /// The pages.
        range: PageRun,
    },
    /// A range was unmapped.
    Unmap {
        /// The pages.
        range: PageRun,
    },
}

/// How a page was touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultFlags {
    /// By a write.
    pub write: bool,
    /// It is there, but write-protected.
    pub write_protect: bool,
    /// It is in the page cache, but not mapped.
    pub minor: bool,
}

/// Room for events, reused between reads.
pub struct EventBuffer {
    bytes: Box<[u8; EVENTS_MAX * MESSAGE_BYTES]>,
    events: Vec<Event>,
}

impl EventBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Box::new([0; EVENTS_MAX * MESSAGE_BYTES]),
            events: Vec::with_capacity(EVENTS_MAX),
        }
    }
}

impl Default for EventBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EventBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBuffer")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl Uffd {
    /// The events that are there, at most [`EVENTS_MAX`]; none when there are none (the
    /// descriptor must be non-blocking). Poll the descriptor to wait. Repeat until it is empty
    /// before acting on faults. A child's userfaultfd that is not taken out of the iterator
    /// closes.
    ///
    /// # Errors
    /// [`UffdError::Read`]; [`UffdError::UnknownEvent`] if the kernel does what nobody asked for.
    pub fn read_events<'buffer>(
        &self,
        buffer: &'buffer mut EventBuffer,
    ) -> Result<impl Iterator<Item = Event> + use<'buffer>, UffdError> {
        buffer.events.clear();
        let read = loop {
            match rustix::io::read(self, &mut buffer.bytes[..]) {
                Ok(read) => break read,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break 0,
                Err(errno) => {
                    return Err(UffdError::Read {
                        source: errno.into(),
                    });
                }
            }
        };
        let (messages, _) = buffer.bytes[..read].as_chunks::<MESSAGE_BYTES>();
        // All are parsed even if one is not understood, so that no descriptor leaks.
        let mut unknown = None;
        for message in messages {
            match parse(message) {
                Ok(event) => buffer.events.push(event),
                Err(number) => unknown = Some(number),
            }
        }
        match unknown {
            Some(number) => Err(UffdError::UnknownEvent { number }),
            None => Ok(buffer.events.drain(..)),
        }
    }
}

/// By hand, as the kernel's struct is a packed one with unions: event at 0, arguments from 8 on.
fn parse(message: &[u8; MESSAGE_BYTES]) -> Result<Event, u8> {
    let word = |index: usize| {
        let at = 8 + index * 8;
        let bytes = message[at..at + 8]
            .try_into()
            .expect("three words follow the header");
        u64::from_ne_bytes(bytes)
    };
    let half = |at: usize| {
        let bytes = message[at..at + 4]
            .try_into()
            .expect("the offsets below are in the message");
        u32::from_ne_bytes(bytes)
    };
    let range = || PageRun::covering(RemoteAddr(word(0)), RemoteAddr(word(1)));
    Ok(match u32::from(message[0]) {
        raw::UFFD_EVENT_PAGEFAULT => {
            let bits = word(0);
            let has = |flag: u32| bits & u64::from(flag) != 0;
            Event::PageFault {
                addr: RemoteAddr(word(1)),
                flags: FaultFlags {
                    write: has(raw::UFFD_PAGEFAULT_FLAG_WRITE),
                    write_protect: has(raw::UFFD_PAGEFAULT_FLAG_WP),
                    minor: has(raw::UFFD_PAGEFAULT_FLAG_MINOR),
                },
                thread: Some(half(24)).filter(|thread| *thread != 0),
            }
        }
        raw::UFFD_EVENT_FORK => {
            let number = RawFd::try_from(half(8)).expect("descriptor numbers are not negative");
            // SAFETY: with this event the kernel has installed a descriptor for us
            // (userfaultfd(2)); each message is parsed once.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            Event::Fork {
                child: Uffd::from(fd),
            }
        }
        raw::UFFD_EVENT_REMAP => Event::Remap {
            from: RemoteAddr(word(0)),
            to: RemoteAddr(word(1)),
            length: word(2),
        },
        raw::UFFD_EVENT_REMOVE => Event::Remove { range: range() },
        raw::UFFD_EVENT_UNMAP => Event::Unmap { range: range() },
        _ => return Err(message[0]),
    })
}
