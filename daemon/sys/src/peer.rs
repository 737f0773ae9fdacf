//! Who is at the other end of a Unix socket, as the kernel says, not as the peer says.
//!
//! The credentials are those of the process that called connect(2) (or socketpair(2)), taken at
//! that moment. The pid alone proves nothing later on, as numbers are reused: act on the pidfd.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::Pid,
};

use crate::pidfd::{Pidfd, PidfdError};

/// `SO_PEERPIDFD` of socket(7), kernel 6.5; the same on all architectures with generic numbers.
const SO_PEERPIDFD: libc::c_int = 77;

/// `SO_PEERGROUPS` of socket(7), kernel 4.13.
const SO_PEERGROUPS: libc::c_int = 59;

/// Most supplementary groups a process can have (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65536;

/// Room for the groups of nearly everybody.
const GROUPS_FIRST: usize = 64;

/// The peer of a connected Unix socket.
#[derive(Debug)]
pub struct Peer {
    /// Process number in the namespace of the caller. `None`: the peer lives outside of it.
    pub pid: Option<Pid>,
    /// Effective user at the time of connecting.
    pub uid: u32,
    /// Effective group at the time of connecting.
    pub gid: u32,
    /// Supplementary groups at the time of connecting.
    pub groups: Vec<u32>,
    /// The process itself. `None`: see [`Peer::pid`].
    pub pidfd: Option<Pidfd>,
}

/// Why a peer could not be identified.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// getsockopt(2) failed: not a connected Unix socket.
    #[error("read {option} of a unix socket")]
    Option {
        /// The socket option.
        option: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process that connected is gone, so it cannot be told who is at the other end now.
    #[error("the process {pid} that connected is gone")]
    Gone {
        /// Its number at the time of connecting.
        pid: i32,
    },
    /// pidfd_open(2) failed.
    #[error("open the peer with number {pid}")]
    Pidfd {
        /// Process number of the peer.
        pid: i32,
        /// Why.
        source: PidfdError,
    },
}

/// Identifies the peer of `socket`.
///
/// From kernel 6.5 on the pidfd is exactly the process that connected. Before, it is opened by
/// number and then checked: the socket is still connected, the process runs, and its user is the
/// one that connected. That leaves a gap for a process that hands its socket to another, exits,
/// and has its number reused by a process of the same user.
///
/// # Errors
/// [`PeerError`]; [`PeerError::Gone`] is the peer's doing, everything else is ours.
pub fn identify(socket: impl AsFd) -> Result<Peer, PeerError> {
    // Not by rustix: its credentials cannot hold the 0 that stands for an invisible process.
    let credentials = peer_credentials(&socket).map_err(|source| PeerError::Option {
        option: "SO_PEERCRED",
        source,
    })?;
    let groups = peer_groups(&socket).map_err(|source| PeerError::Option {
        option: "SO_PEERGROUPS",
        source,
    })?;
    let pid = Pid::from_raw(credentials.pid).filter(|_| credentials.pid > 0);
    let pidfd = match pid {
        Some(pid) => Some(peer_pidfd(&socket, pid, credentials.uid)?),
        None => None,
    };
    Ok(Peer {
        pid,
        uid: credentials.uid,
        gid: credentials.gid,
        groups,
        pidfd,
    })
}

fn peer_pidfd(socket: impl AsFd, pid: Pid, uid: u32) -> Result<Pidfd, PeerError> {
    let number = pid.as_raw_nonzero().get();
    let mut word = [0];
    match socket_words(&socket, SO_PEERPIDFD, &mut word).map_err(|refused| refused.error) {
        Ok(_) => {
            // SAFETY: the kernel has just installed this descriptor for us (socket(7)); nobody
            // else knows its number.
            let fd = unsafe { OwnedFd::from_raw_fd(word[0].cast_signed()) };
            let pidfd = Pidfd::from_parts(fd, pid);
            return if pidfd.is_alive() {
                Ok(pidfd)
            } else {
                Err(PeerError::Gone { pid: number })
            };
        }
        Err(source) if source.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
        // What kernels say about a peer that was reaped already.
        Err(source) if matches!(source.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {
            return Err(PeerError::Gone { pid: number });
        }
        Err(source) => {
            return Err(PeerError::Option {
                option: "SO_PEERPIDFD",
                source,
            });
        }
    }
    peer_pidfd_by_number(socket, pid, uid)
}

/// For kernels before 6.5; see [`identify`] for what it cannot exclude.
fn peer_pidfd_by_number(socket: impl AsFd, pid: Pid, uid: u32) -> Result<Pidfd, PeerError> {
    let number = pid.as_raw_nonzero().get();
    let pidfd = Pidfd::open(pid).map_err(|error| match error {
        PidfdError::Gone { .. } => PeerError::Gone { pid: number },
        source => PeerError::Pidfd {
            pid: number,
            source,
        },
    })?;
    // In this order: the user is read by number while the pidfd says that it is still the same
    // process.
    let owner = fs::metadata(format!("/proc/{number}"));
    let same_user = owner.is_ok_and(|meta| {
        // A process that is not dumpable belongs to root in /proc.
        meta.uid() == uid || meta.uid() == 0
    });
    if same_user && pidfd.is_alive() && connected(socket) {
        Ok(pidfd)
    } else {
        Err(PeerError::Gone { pid: number })
    }
}

fn connected(socket: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::RDHUP)];
    match rustix::event::poll(
        &mut polled,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    ) {
        Ok(_) => !polled[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR),
        Err(_) => false,
    }
}

fn peer_credentials(socket: impl AsFd) -> io::Result<libc::ucred> {
    let mut words = [0; 3];
    match socket_words(socket, libc::SO_PEERCRED, &mut words) {
        Ok(3) => {
            let [pid, uid, gid] = words;
            Ok(libc::ucred {
                pid: pid.cast_signed(),
                uid,
                gid,
            })
        }
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Err(refused) => Err(refused.error),
    }
}

fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; GROUPS_FIRST];
    loop {
        match socket_words(&socket, SO_PEERGROUPS, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel says how much room it wants. It is asked twice at most, as the groups of
            // a connection never change.
            Err(refused)
                if refused.error.raw_os_error() == Some(libc::ERANGE)
                    && refused.wanted > groups.len()
                    && refused.wanted <= GROUPS_MAX =>
            {
                groups.resize(refused.wanted, 0);
            }
            Err(refused) => return Err(refused.error),
        }
    }
}

/// A getsockopt(2) that failed, with the number of words the kernel would have written.
struct Refused {
    error: io::Error,
    wanted: usize,
}

/// Reads an option of level `SOL_SOCKET` whose value is 32-bit words; returns how many there are.
fn socket_words(
    socket: impl AsFd,
    option: libc::c_int,
    words: &mut [u32],
) -> Result<usize, Refused> {
    let mut length = libc::socklen_t::try_from(size_of_val(words)).unwrap_or(0);
    // SAFETY: the descriptor is borrowed, hence open; the buffer is valid for `length` bytes and
    // any bytes are valid words; `length` is valid for writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let count = usize::try_from(length).unwrap_or(0) / size_of::<u32>();
    if result == 0 {
        Ok(count.min(words.len()))
    } else {
        Err(Refused {
            error: io::Error::last_os_error(),
            wanted: count,
        })
    }
}
