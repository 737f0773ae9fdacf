//! CRIU's lazy-pages socket: every restored process sends its userfaultfd here.
//!
//! CRIU connects once, before it forks. Each process sends its PID (i32; negative: a zombie), then
//! one byte with the descriptor; at the end CRIU sends [`FINISHED`].

use tokio::net::UnixListener;

use crate::{
    LazyEvent, WorkDir,
    command::StartError,
    wire::{Inbox, WireError},
};

/// Name of the socket in the work directory; CRIU connects to it by this name.
const SOCKET: &str = "lazy-pages.socket";

/// What CRIU sends instead of a PID when all processes are about to run ("RSTF").
const FINISHED: u32 = 0x5253_5446;

/// Makes the socket.
pub(crate) fn bind(work_dir: &WorkDir) -> Result<UnixListener, StartError> {
    let path = work_dir.here.join(SOCKET);
    UnixListener::bind(&path).map_err(|source| StartError::Socket {
        name: SOCKET,
        path: work_dir.here.clone(),
        source,
    })
}

/// Passes on what comes until CRIU has finished or gone. Without [`LazyEvent::Finished`] the
/// restore has failed.
pub(crate) async fn serve(
    listener: UnixListener,
    events: async_channel::Sender<LazyEvent>,
) -> Result<(), WireError> {
    let (socket, _) = listener.accept().await.map_err(WireError::Socket)?;
    let mut inbox = Inbox::new(socket);
    while let Some(bytes) = inbox.bytes(4).await? {
        let word = <[u8; 4]>::try_from(&bytes[..]).map_or(0, u32::from_ne_bytes);
        let event = if word == FINISHED {
            LazyEvent::Finished
        } else {
            match word.cast_signed() {
                0 => return Err(WireError::Protocol("a process has no number")),
                zombie @ ..0 => LazyEvent::Zombie {
                    pid: zombie.unsigned_abs(),
                },
                _ => LazyEvent::Process {
                    pid: word,
                    uffd: inbox.descriptor().await?,
                },
            }
        };
        let finished = matches!(event, LazyEvent::Finished);
        if events.send(event).await.is_err() || finished {
            break;
        }
    }
    Ok(())
}
