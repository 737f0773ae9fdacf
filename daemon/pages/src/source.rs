//! Where frames come from, seen from the page-fault server.
//!
//! Only [`VerifiedFrame`]s reach a process. A source verifies what it gives, or gives it
//! [`Arrived`]: then the installers verify it, on their own threads and while it is in their caches,
//! and ask again for what is not what was written. A source repeats what can be repeated; when it answers with an error,
//! the load fails and the processes are killed. No error is ever answered with zeros.

use std::{error::Error, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use lifeboat_format::{
    Decoder, FormatError,
    frame::{FrameRef, StoredFrame, VerifiedFrame},
    seal::Seal,
};

/// How much somebody waits for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A thread of the restored workload is stopped until it is there.
    Demand,
    /// Nobody waits yet.
    Prefetch,
}

/// Gives verified frames by their index in the manifest.
#[async_trait]
pub trait FrameSource: Send + Sync + Debug {
    /// The contents of `frames`, in the same order. Asking for several at once allows the source to
    /// get neighbours together.
    ///
    /// Dropping the future gives the request up.
    ///
    /// # Errors
    ///
    /// [`FetchError`], after the source has tried what it can: final for this load.
    async fn fetch(
        &self,
        frames: &[u32],
        urgency: Urgency,
    ) -> Result<Vec<VerifiedFrame>, FetchError>;

    /// The same, without the work of verifying. A frame that turns out not to be what was written
    /// is asked for again with [`FrameSource::fetch`].
    ///
    /// # Errors
    ///
    /// As [`FrameSource::fetch`].
    async fn fetch_unverified(
        &self,
        frames: &[u32],
        urgency: Urgency,
    ) -> Result<Vec<Arrived>, FetchError> {
        let frames = self.fetch(frames, urgency).await?;
        Ok(frames.into_iter().map(Arrived::verified).collect())
    }
}

/// A frame that has come, and may still have to be verified.
#[derive(Debug)]
pub struct Arrived(State);

#[derive(Debug)]
enum State {
    Verified(VerifiedFrame),
    Stored {
        stored: StoredFrame,
        frame: FrameRef,
        seal: Arc<Seal>,
    },
    Damaged(FormatError),
}

impl Arrived {
    /// A frame that was verified.
    #[must_use]
    pub const fn verified(frame: VerifiedFrame) -> Self {
        Self(State::Verified(frame))
    }

    /// A frame that is to be verified. An error says that it cannot be one.
    #[must_use]
    pub fn stored(
        stored: Result<StoredFrame, FormatError>,
        frame: FrameRef,
        seal: Arc<Seal>,
    ) -> Self {
        Self(match stored {
            Ok(stored) => State::Stored {
                stored,
                frame,
                seal,
            },
            Err(error) => State::Damaged(error),
        })
    }

    /// The content, if it is what was written.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn verify(self, decoder: &mut Decoder) -> Result<VerifiedFrame, FormatError> {
        match self.0 {
            State::Verified(frame) => Ok(frame),
            State::Stored {
                stored,
                frame,
                seal,
            } => stored.verify(&frame, &seal)?.decode(decoder),
            State::Damaged(error) => Err(error),
        }
    }
}

/// Why frames cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The manifest has no such frame.
    #[error("frame {frame} is not in the manifest, which has {frames} frames")]
    NoSuchFrame {
        /// The index asked for.
        frame: u32,
        /// Number of frames in the manifest.
        frames: u32,
    },
    /// The bytes in the store are not those that were written, each time they were read.
    #[error(
        "frame {frame} at offset {offset} of {object} is not what was written \
         (read {attempts} times)"
    )]
    Corrupt {
        /// The frame.
        frame: u32,
        /// Key of the object.
        object: String,
        /// Where the frame begins in the object, in bytes.
        offset: u64,
        /// How often it was read.
        attempts: u32,
        /// What the check found.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The store did not give the bytes.
    #[error(
        "{bytes} bytes at offset {offset} of {object} could not be read within {waited:?} \
         ({attempts} attempts)"
    )]
    Unavailable {
        /// Key of the object.
        object: String,
        /// Where the bytes begin in the object.
        offset: u64,
        /// How many they are.
        bytes: u64,
        /// How long it was tried.
        waited: Duration,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}
