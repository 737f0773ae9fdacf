//! The daemon's end of a hold's guard: see `Guarding` of the hold protocol.
//!
//! A userfaultfd is in the socket's queue when [`Guard::keep`] returns. It lives there even if this
//! daemon dies at once, since the hold has the other end.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_pages::{Guard, Guarded, Journal};
use lifeboat_proto::hold::{self, to_hold::Message};
use lifeboat_sys::fdpass;
use prost::Message as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::workload::Workload;

/// Longest time that a hold may take to make room for one more descriptor.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug)]
pub struct HoldGuard {
    channel: OwnedFd,
}

impl HoldGuard {
    /// Has the hold of `workload` guard what is loaded, with `journal` for its mark.
    ///
    /// # Errors
    /// The hold is gone, or the system refuses: nothing may be loaded.
    pub async fn begin(
        workload: &Workload,
        journal: &Journal,
        wait: Duration,
    ) -> io::Result<Arc<Self>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let guarding = hold::Guarding {
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let descriptors = vec![theirs, journal.reader()?];
        if workload
            .hold_has(Message::Guarding(guarding), descriptors)
            .await
        {
            return Ok(Arc::new(Self { channel: ours }));
        }
        Err(io::Error::other("the hold is not connected"))
    }
}

impl Guard for HoldGuard {
    fn keep(&self, process: Guarded, uffd: OwnedFd) -> io::Result<()> {
        let body = hold::Guard {
            pid: process.pid,
            forked: process.forked,
        };
        let body = body.encode_to_vec();
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = length.to_le_bytes().to_vec();
        frame.extend_from_slice(&body);
        let deadline = Instant::now() + ROOM_TIMEOUT;
        fdpass::send_all(&self.channel, &frame, &[uffd.as_fd()], deadline).map_err(io::Error::other)
    }
}
