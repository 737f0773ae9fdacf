//! The daemon's socket: one path, two protocols.
//!
//! gRPC begins with the HTTP/2 preface, a hold with [`HOLD_PREFACE`]; the first eight bytes decide.
//! Every connection is identified by the kernel before anything of it is read.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use lifeboat_proto::HOLD_PREFACE;
use lifeboat_sys::peer::{self, Peer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tonic::transport::server::Connected;

use super::identity::Caller;
use crate::hold::wire::HoldConnection;

/// Longest time that a new connection may take to say which protocol it speaks.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most connections waiting to be served.
const BACKLOG: usize = 64;

/// Why the socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens there.
    #[error("listen on {path}: another lifeboatd answers there; stop it or use another --socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("listen on {path}: {what}")]
    System {
        /// The socket.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What connects to the socket, sorted.
#[derive(Debug)]
pub struct Incoming {
    /// Connections that speak gRPC.
    pub grpc: mpsc::Receiver<GrpcConnection>,
    /// Connections that speak the hold protocol.
    pub holds: mpsc::Receiver<(HoldConnection, Peer)>,
}

/// Listens on `path`. A socket left over by a daemon that died is replaced.
///
/// # Errors
/// When another daemon answers there, or the system refuses.
pub async fn listen(path: &Path, group: Option<&str>) -> Result<UnixListener, SocketError> {
    let system = |what| {
        move |source| SocketError::System {
            path: path.to_owned(),
            what,
            source,
        }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(system("make its folder"))?;
    }
    match UnixStream::connect(path).await {
        Ok(_) => {
            return Err(SocketError::InUse {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path).map_err(system("remove the dead one"))?,
    }
    let listener = UnixListener::bind(path).map_err(system("bind"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(system("set its mode"))?;
    if let Some(name) = group {
        let gid = nix::unistd::Group::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(|| io::Error::other(format!("there is no group {name:?}")))
            .map_err(system("find its group"))?
            .gid;
        nix::unistd::chown(path, None, Some(gid))
            .map_err(io::Error::from)
            .map_err(system("set its group"))?;
    }
    Ok(listener)
}

/// Accepts and sorts connections until the receivers are dropped.
pub fn accept(listener: UnixListener) -> Incoming {
    let (grpc_out, grpc) = mpsc::channel(BACKLOG);
    let (holds_out, holds) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if grpc_out.is_closed() && holds_out.is_closed() {
                return;
            }
            let (grpc_out, holds_out) = (grpc_out.clone(), holds_out.clone());
            tokio::spawn(async move {
                if let Err(error) = sort(stream, &grpc_out, &holds_out).await {
                    tracing::debug!(error = %error, "connection dropped");
                }
            });
        }
    });
    Incoming { grpc, holds }
}

async fn sort(
    mut stream: UnixStream,
    grpc: &mpsc::Sender<GrpcConnection>,
    holds: &mpsc::Sender<(HoldConnection, Peer)>,
) -> io::Result<()> {
    let peer = peer::identify(&stream).map_err(io::Error::other)?;
    let mut preface = [0; HOLD_PREFACE.len()];
    timeout(PREFACE_TIMEOUT, stream.read_exact(&mut preface)).await??;
    // A receiver that is gone means that the daemon drains; the connection is dropped with it.
    if &preface == HOLD_PREFACE {
        drop(holds.send((HoldConnection::new(stream), peer)).await);
    } else {
        let caller = Caller::of_peer(&peer);
        drop(
            grpc.send(GrpcConnection {
                preface,
                read: 0,
                stream,
                caller,
            })
            .await,
        );
    }
    Ok(())
}

/// A gRPC connection whose first bytes were read already.
#[derive(Debug)]
pub struct GrpcConnection {
    preface: [u8; HOLD_PREFACE.len()],
    read: usize,
    stream: UnixStream,
    caller: Caller,
}

impl Connected for GrpcConnection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for GrpcConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.preface.len() {
            let rest = &self.preface[self.read..];
            let taken = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..taken]);
            self.read += taken;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for GrpcConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
