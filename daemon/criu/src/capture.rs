//! The daemon as image streamer of a dump: takes every file that CRIU writes to an [`ImageSink`].
//!
//! Each file has a task of its own, one buffer of [`IMAGE_CHUNK_BYTES`] and a pipe of
//! [`PIPE_BYTES`]: CRIU waits when the sink does. Small files of known names are kept in memory
//! too, up to [`KEPT_BYTES_MAX`] together, since the daemon reads them.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, unix::pipe},
    sync::oneshot,
    task::JoinSet,
};

use crate::{
    ImageError, ImageSet, ImageSink, WorkDir,
    command::StartError,
    image_io::{IMAGE_CHUNK_BYTES, OPEN_IMAGES_MAX},
    images,
    wire::{FileRequests, Got, WireError},
};

/// Name of the socket in the work directory.
const SOCKET: &str = "streamer-capture.sock";

/// Size of the pipe of each file, in bytes.
const PIPE_BYTES: usize = 1 << 20;

/// Most bytes of image files kept in memory.
pub const KEPT_BYTES_MAX: usize = 256 << 20;

/// Why images could not be taken. The dump is aborted.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The conversation with CRIU failed.
    #[error("take images from criu")]
    Wire(#[source] WireError),
    /// A file's pipe failed.
    #[error("read image file {name} from criu")]
    Pipe {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The sink refused.
    #[error("store image file {name}")]
    Sink {
        /// The file.
        name: String,
        /// Why.
        source: ImageError,
    },
    /// CRIU writes more files at once than it ever should.
    #[error("criu writes more than {OPEN_IMAGES_MAX} image files at once")]
    TooMany,
    /// Image files that the daemon must read are too big for memory.
    #[error("image files other than page contents exceed {KEPT_BYTES_MAX} bytes")]
    TooBig,
    /// The task that stored a file is gone.
    #[error("a task that stored an image file failed")]
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

/// Takes images until CRIU goes away, or until `done` says that CRIU has asked for the last one.
/// All files have ended then; the kept ones are the answer.
pub(crate) async fn serve(
    listener: UnixListener,
    sink: Arc<dyn ImageSink>,
    done: oneshot::Receiver<()>,
) -> Result<ImageSet, CaptureError> {
    let socket = listener
        .accept()
        .await
        .map_err(|error| wire(WireError::Socket(error)))?
        .0;
    let mut capture = Capture {
        sink,
        kept: Arc::default(),
        files: JoinSet::new(),
    };
    let mut requests = FileRequests::new(socket);
    capture.intake(&mut requests, done).await?;
    // What CRIU asked for before it was done is in the socket by now.
    while let Got::Here(file) = requests.file(false).await.map_err(wire)? {
        capture.begin(file)?;
    }
    while let Some(file) = capture.files.join_next().await {
        file.map_err(CaptureError::Task)??;
    }
    let mut kept = capture.kept.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut kept.files))
}

fn wire(error: WireError) -> CaptureError {
    CaptureError::Wire(error)
}

struct Capture {
    sink: Arc<dyn ImageSink>,
    kept: Arc<Mutex<Kept>>,
    files: JoinSet<Result<(), CaptureError>>,
}

#[derive(Default)]
struct Kept {
    files: ImageSet,
    bytes: usize,
}

impl Capture {
    /// Begins files until CRIU is done or gone.
    async fn intake(
        &mut self,
        requests: &mut FileRequests,
        mut done: oneshot::Receiver<()>,
    ) -> Result<(), CaptureError> {
        loop {
            let file = tokio::select! {
                Some(file) = self.files.join_next() => {
                    file.map_err(CaptureError::Task)??;
                    continue;
                }
                file = requests.file(true) => file.map_err(wire)?,
                _ = &mut done => return Ok(()),
            };
            match file {
                Got::Here(file) => self.begin(file)?,
                Got::End | Got::NotYet => return Ok(()),
            }
        }
    }

    fn begin(&mut self, (name, pipe): (String, OwnedFd)) -> Result<(), CaptureError> {
        if self.files.len() >= OPEN_IMAGES_MAX {
            return Err(CaptureError::TooMany);
        }
        self.files.spawn(take(
            name,
            pipe,
            Arc::clone(&self.sink),
            Arc::clone(&self.kept),
        ));
        Ok(())
    }
}

/// Takes one file.
async fn take(
    name: String,
    pipe: OwnedFd,
    sink: Arc<dyn ImageSink>,
    kept: Arc<Mutex<Kept>>,
) -> Result<(), CaptureError> {
    // A smaller pipe is slower, that is all.
    let _as_it_is = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
    let mut pipe = pipe::Receiver::from_owned_fd(pipe).map_err(|source| CaptureError::Pipe {
        name: name.clone(),
        source,
    })?;
    let refused = |source| CaptureError::Sink {
        name: name.clone(),
        source,
    };
    let mut writer = sink.open(&name).await.map_err(refused)?;
    let mut copy = images::is_kept(&name).then(BytesMut::new);
    while let Some(piece) = next_piece(&mut pipe)
        .await
        .map_err(|source| CaptureError::Pipe {
            name: name.clone(),
            source,
        })?
    {
        if let Some(copy) = &mut copy {
            copy.extend_from_slice(&piece);
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.bytes += piece.len();
            if kept.bytes > KEPT_BYTES_MAX {
                return Err(CaptureError::TooBig);
            }
        }
        writer.write(piece).await.map_err(refused)?;
    }
    writer.finish().await.map_err(refused)?;
    if let Some(copy) = copy {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.files.insert(name, copy.freeze());
    }
    Ok(())
}

async fn next_piece(pipe: &mut pipe::Receiver) -> io::Result<Option<Bytes>> {
    let mut piece = BytesMut::with_capacity(IMAGE_CHUNK_BYTES);
    // A full piece where possible: fewer, larger writes for the sink.
    while piece.len() < IMAGE_CHUNK_BYTES {
        let mut rest = (&mut *pipe).take((IMAGE_CHUNK_BYTES - piece.len()) as u64);
        if rest.read_buf(&mut piece).await? == 0 {
            break;
        }
    }
    Ok((!piece.is_empty()).then(|| piece.freeze()))
}
