//! Who is calling, as the kernel tells it; never as the caller says.
//!
//! On the Unix socket a caller is known by its peer credentials. A caller over TCP has shown a
//! client certificate (or comes from loopback on a listener that was switched on) and acts as root.

use std::sync::Arc;

use lifeboat_sys::peer::Peer;
use tonic::{Request, Status};

/// A caller of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// PID in the daemon's PID namespace; zero for callers outside of it.
    pub pid: u32,
}

impl Caller {
    /// An operator who came over TCP.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Arc::new([]),
            pid: 0,
        }
    }

    /// The peer of a Unix socket.
    #[must_use]
    pub fn of_peer(peer: &Peer) -> Self {
        Self {
            uid: peer.uid,
            gid: peer.gid,
            groups: peer.groups.as_slice().into(),
            pid: peer
                .pid
                .map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs()),
        }
    }

    /// Whether the caller may see and touch what `owner` owns.
    #[must_use]
    pub const fn may_touch(&self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner
    }

    /// The caller of a gRPC request.
    ///
    /// # Errors
    /// When the connection carries no identity: the request is refused.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("the connection carries no identity"))
    }
}
