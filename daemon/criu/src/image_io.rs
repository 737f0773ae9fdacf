//! Where images go in a dump and come from in a restore.
//!
//! CRIU writes several files at once and waits for all of them: an implementation must not let one
//! file wait for another.

use async_trait::async_trait;
use bytes::Bytes;

/// Why the other side of an image failed; kept as it is and shown as the source of the session's
/// error.
pub type ImageError = Box<dyn std::error::Error + Send + Sync>;

/// Largest piece handed to an [`ImageWriter`] or taken from an [`ImageReader`], in bytes.
pub const IMAGE_CHUNK_BYTES: usize = 256 << 10;

/// Most files that CRIU may have open at once.
pub const OPEN_IMAGES_MAX: usize = 4096;

/// Takes image files.
#[async_trait]
pub trait ImageSink: Send + Sync {
    /// CRIU starts to write the file `name` (a plain file name, at most 255 bytes, no slash).
    ///
    /// # Errors
    /// Aborts the dump.
    async fn open(&self, name: &str) -> Result<Box<dyn ImageWriter>, ImageError>;
}

/// Takes one image file.
#[async_trait]
pub trait ImageWriter: Send {
    /// The next piece, never empty, at most [`IMAGE_CHUNK_BYTES`]. Waiting here is back-pressure:
    /// CRIU waits too, with the tree frozen.
    ///
    /// # Errors
    /// Aborts the dump.
    async fn write(&mut self, piece: Bytes) -> Result<(), ImageError>;

    /// CRIU has closed the file. It also does so when it gives up halfway: the files are an image
    /// only once [`crate::Dump::described`] says so.
    ///
    /// # Errors
    /// Aborts the dump.
    async fn finish(self: Box<Self>) -> Result<(), ImageError>;
}

/// Gives image files. A file may be opened more than once.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// Opens the file `name`; `None` if the image has no such file (CRIU asks for many that are
    /// optional).
    ///
    /// # Errors
    /// Fails the restore.
    async fn open(&self, name: &str) -> Result<Option<Box<dyn ImageReader>>, ImageError>;
}

/// Gives one image file.
#[async_trait]
pub trait ImageReader: Send {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Fails the restore.
    async fn read(&mut self) -> Result<Option<Bytes>, ImageError>;
}
