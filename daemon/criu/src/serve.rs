//! The daemon as image streamer of a restore: gives CRIU every file from an [`ImageSource`].
//!
//! Each file has a task of its own; a file may be asked for more than once. Pagemaps of processes
//! are changed on the way ([`images::pagemap::present`]): what CRIU stored itself it loads itself,
//! and only what it does not have is left to the page server. What CRIU wrote wrongly is put right
//! ([`images::repair`]).

use std::{io, os::fd::OwnedFd, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, unix::pipe},
    task::JoinSet,
};

use crate::{
    ImageError, ImageReader, ImageSource, WorkDir,
    command::StartError,
    image_io::OPEN_IMAGES_MAX,
    images::{self, ImagesError},
    wire::{FileRequests, WireError},
};

/// Name of the socket in the work directory.
const SOCKET: &str = "streamer-serve.sock";

/// Size of the pipe of each file, in bytes.
const PIPE_BYTES: usize = 1 << 20;

/// Largest file that is changed on the way, in bytes: it must be in memory for that.
const CHANGED_BYTES_MAX: usize = 256 << 20;

/// Why images could not be given. The restore fails.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The conversation with CRIU failed.
    #[error("give images to criu")]
    Wire(#[source] WireError),
    /// A file's pipe failed.
    #[error("write image file {name} to criu")]
    Pipe {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The source failed.
    #[error("fetch image file {name}")]
    Source {
        /// The file.
        name: String,
        /// Why.
        source: ImageError,
    },
    /// A file cannot be changed as it must be.
    #[error("prepare an image file for criu")]
    Change(#[source] ImagesError),
    /// CRIU reads more files at once than it ever should.
    #[error("criu reads more than {OPEN_IMAGES_MAX} image files at once")]
    TooMany,
    /// The task that gave a file is gone.
    #[error("a task that gave an image file to criu failed")]
    Task(#[source] tokio::task::JoinError),
}

/// Makes the socket.
pub(crate) fn bind(work_dir: &WorkDir) -> Result<UnixListener, StartError> {
    let path = work_dir.here.join(SOCKET);
    UnixListener::bind(&path).map_err(|source| StartError::Socket {
        name: SOCKET,
        path: work_dir.here.clone(),
        source,
    })
}

/// Gives files until CRIU goes away.
pub(crate) async fn serve(
    listener: UnixListener,
    source: Arc<dyn ImageSource>,
) -> Result<(), ServeError> {
    let socket = listener
        .accept()
        .await
        .map_err(|error| ServeError::Wire(WireError::Socket(error)))?
        .0;
    let mut requests = FileRequests::new(socket);
    let mut files = JoinSet::new();
    loop {
        let name = tokio::select! {
            Some(file) = files.join_next() => {
                file.map_err(ServeError::Task)??;
                continue;
            }
            name = requests.name() => name.map_err(ServeError::Wire)?,
        };
        let Some(name) = name else { break };
        let reader = open(&name, &*source).await?;
        requests
            .inbox
            .reply(reader.is_some())
            .await
            .map_err(ServeError::Wire)?;
        let Some(reader) = reader else { continue };
        let pipe = requests
            .inbox
            .descriptor()
            .await
            .map_err(ServeError::Wire)?;
        if files.len() >= OPEN_IMAGES_MAX {
            return Err(ServeError::TooMany);
        }
        files.spawn(give(name, pipe, reader));
    }
    while let Some(file) = files.join_next().await {
        file.map_err(ServeError::Task)??;
    }
    Ok(())
}

async fn open(
    name: &str,
    source: &dyn ImageSource,
) -> Result<Option<Box<dyn ImageReader>>, ServeError> {
    let failed = |source| ServeError::Source {
        name: name.to_owned(),
        source,
    };
    let Some(mut reader) = source.open(name).await.map_err(failed)? else {
        return Ok(None);
    };
    let is_pagemap = images::pagemap::is_of_process(name);
    if !is_pagemap && name != images::repair::NAME {
        return Ok(Some(reader));
    }
    let mut bytes = BytesMut::new();
    while let Some(piece) = reader.read().await.map_err(failed)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > CHANGED_BYTES_MAX {
            return Err(failed(
                format!("it exceeds {CHANGED_BYTES_MAX} bytes").into(),
            ));
        }
    }
    let bytes = bytes.freeze();
    let changed = if is_pagemap {
        images::pagemap::present(name, &bytes)
    } else {
        images::repair::repair(&bytes)
    };
    let changed = changed.map_err(ServeError::Change)?;
    Ok(Some(Box::new(OnePiece(Some(changed)))))
}

/// A file that is in memory.
struct OnePiece(Option<Bytes>);

#[async_trait::async_trait]
impl ImageReader for OnePiece {
    async fn read(&mut self) -> Result<Option<Bytes>, ImageError> {
        Ok(self.0.take())
    }
}

/// Gives one file. CRIU may stop reading before the end.
async fn give(
    name: String,
    pipe: OwnedFd,
    mut reader: Box<dyn ImageReader>,
) -> Result<(), ServeError> {
    // A smaller pipe is slower, that is all.
    let _as_it_is = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
    let failed = |source| ServeError::Pipe {
        name: name.clone(),
        source,
    };
    let mut pipe = pipe::Sender::from_owned_fd(pipe).map_err(failed)?;
    loop {
        let piece = reader.read().await;
        let piece = piece.map_err(|source| ServeError::Source {
            name: name.clone(),
            source,
        })?;
        let Some(piece) = piece else { return Ok(()) };
        match pipe.write_all(&piece).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(failed)?,
        }
    }
}
