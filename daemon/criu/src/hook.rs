//! The daemon's end of the hook's socket. What the hook does is written in
//! `daemon/preload/src/hook.rs`, what both say in `protocol.rs` there.

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use crate::{WorkDir, command::StartError, protocol};

/// Name of the socket in the work directory.
pub(crate) const SOCKET: &str = "hook.sock";

/// How long a hook may take to say why it calls, or to answer. It does nothing else.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Waits for hooks.
#[derive(Debug)]
pub(crate) struct HookListener {
    listener: UnixListener,
    path: PathBuf,
}

/// A stage at which CRIU is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    PostDump,
    PostRestore,
}

/// A hook that holds CRIU.
#[derive(Debug)]
pub(crate) struct Hook {
    stream: UnixStream,
    pub(crate) stage: Stage,
    /// It lost its daemon while a commit was being attempted.
    pub(crate) again: bool,
}

impl HookListener {
    /// Makes the socket. One left over by a daemon that is gone is replaced.
    pub(crate) fn bind(work_dir: &WorkDir) -> Result<Self, StartError> {
        let path = work_dir.here.join(SOCKET);
        let bind = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            UnixListener::bind(&path)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(StartError::Socket {
                name: SOCKET,
                path: work_dir.here.clone(),
                source,
            }),
        }
    }

    /// Waits for a hook.
    pub(crate) async fn accept(&self) -> io::Result<Hook> {
        let (stream, _) = self.listener.accept().await?;
        within(Hook::introduce(stream)).await
    }
}

impl Drop for HookListener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "remove the hook's socket");
        }
    }
}

impl Hook {
    async fn introduce(mut stream: UnixStream) -> io::Result<Self> {
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await? {
                b'\n' => break,
                byte if line.len() < protocol::HOOK_LINE_BYTES_MAX => line.push(byte),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        let line = String::from_utf8_lossy(&line);
        let (state, action) = line.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let stage = match action {
            "post-dump" => Stage::PostDump,
            "post-restore" => Stage::PostRestore,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let again = match state {
            protocol::STATE_FIRST => false,
            protocol::STATE_AGAIN => true,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Self {
            stream,
            stage,
            again,
        })
    }

    /// The connection, to find out who is at its other end.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.stream
    }

    /// Waits for the hook's end. It says nothing unasked.
    pub(crate) async fn lost(&mut self) -> io::Error {
        match self.stream.read_u8().await {
            Ok(_) => io::ErrorKind::InvalidData.into(),
            Err(error) => error,
        }
    }

    /// Says that a commit is being attempted, and waits until the hook knows.
    pub(crate) async fn committing(&mut self) -> io::Result<()> {
        within(async {
            self.stream.write_u8(protocol::VERDICT_COMMITTING).await?;
            match self.stream.read_u8().await? {
                protocol::ACK_COMMITTING => Ok(()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        })
        .await
    }

    /// Gives the verdict.
    pub(crate) async fn release(mut self) -> io::Result<()> {
        self.stream.write_u8(protocol::VERDICT_RELEASE).await
    }

    /// Gives the verdict.
    pub(crate) async fn abort(mut self) -> io::Result<()> {
        self.stream.write_u8(protocol::VERDICT_ABORT).await
    }
}

async fn within<T>(call: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(ANSWER_WITHIN, call)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
