//! A workload's head: who owns the workload, and which manifest is the latest.
//!
//! The head is the root of trust of everything that a workload stored: it holds the digest of the
//! manifest, which holds the digests of the frames. It is small and changed by compare-and-set only.

use bytes::Bytes;
use lifeboat_proto::{
    id::{CheckpointId, Epoch, WorkloadName},
    image,
};
use prost::Message as _;

use crate::{
    envelope::{self, Kind},
    error::{FormatError, Object, Problem},
    keys::ObjectKey,
    seal::{Digest, Seal},
    text,
};

/// Largest head, in bytes of its message.
pub const HEAD_BYTES_MAX: u64 = 16 << 10;

/// Longest name of an owner or node, in bytes.
pub const OWNER_BYTES_MAX: usize = 256;

/// Size of a writer's random value, in bytes.
pub const NONCE_BYTES: usize = 16;

const KIND: Kind = Kind {
    object: Object::Head,
    magic: b"LBHEAD01",
    content_bytes_max: HEAD_BYTES_MAX,
};

/// The small mutable object of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The workload.
    pub workload: WorkloadName,
    /// Fencing epoch: grows by one with each claim.
    pub epoch: Epoch,
    /// Who has the right to commit.
    pub owner: String,
    /// Name of the owner's node, for people. May be empty.
    pub node: String,
    /// What the workload does.
    pub state: HeadState,
    /// The latest committed checkpoint, if any.
    pub latest: Option<LatestManifest>,
    /// Random value of the writer of this version.
    pub nonce: [u8; NONCE_BYTES],
    /// How long the owner may stay silent before others may take over, in milliseconds.
    pub lease_ms: u64,
    /// Counts the owner's signs of life.
    pub renewals: u64,
    /// User id that owns the workload on its nodes.
    pub uid: u32,
}

/// States of a workload as its head tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadState {
    /// Runs at its owner.
    Running,
    /// Evacuated: the latest manifest waits for somebody to restore it.
    Evacuated,
    /// Being restored by its owner from the latest manifest.
    Restoring,
    /// Ended by itself; the next run starts afresh.
    Finished,
}

/// Names a committed manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LatestManifest {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The epoch under which it was committed: with the workload's name and the id it gives the key.
    pub epoch: Epoch,
    /// Digest of the manifest object.
    pub digest: Digest,
}

impl LatestManifest {
    /// Key of the manifest object.
    #[must_use]
    pub fn key(&self, workload: &WorkloadName) -> String {
        crate::keys::checkpoint(workload, self.epoch, self.checkpoint)
    }
}

impl Head {
    /// The bytes to store.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] for a head that a reader would refuse.
    pub fn encode(&self, seal: &Seal) -> Result<Bytes, FormatError> {
        self.check()?;
        let latest = self.latest.as_ref();
        let message = image::Head {
            epoch: self.epoch.0,
            owner: self.owner.clone(),
            node: self.node.clone(),
            state: image::HeadState::from(self.state).into(),
            manifest_key: latest.map(|latest| latest.key(&self.workload)),
            manifest_digest: latest.map(|latest| Bytes::copy_from_slice(&latest.digest)),
            checkpoint_id: latest.map(|latest| latest.checkpoint.to_string()),
            nonce: Bytes::copy_from_slice(&self.nonce),
            lease_ms: self.lease_ms,
            renewals: self.renewals,
            uid: self.uid,
            workload: self.workload.to_string(),
        };
        Ok(envelope::wrap(KIND, &message.encode_to_vec(), seal)?.0)
    }

    /// The head of `workload` from bytes of a store.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`]; the head of another workload is refused too.
    pub fn decode(bytes: &[u8], workload: &WorkloadName, seal: &Seal) -> Result<Self, FormatError> {
        let (content, _) = envelope::unwrap(KIND, bytes, seal)?;
        let message = image::Head::decode(content).map_err(|source| FormatError::Malformed {
            object: Object::Head,
            source,
        })?;
        if message.workload != workload.as_str() {
            return Err(invalid("workload", text::refused(&message.workload)));
        }
        let state = image::HeadState::try_from(message.state)
            .ok()
            .and_then(|state| HeadState::try_from(state).ok())
            .ok_or_else(|| invalid("state", Problem::UnknownValue(message.state)))?;
        let nonce = message.nonce.as_ref().try_into().map_err(|_| {
            invalid(
                "nonce",
                Problem::Length {
                    found: message.nonce.len(),
                    expected: NONCE_BYTES,
                },
            )
        })?;
        let head = Self {
            workload: workload.clone(),
            epoch: Epoch(message.epoch),
            latest: latest(&message, workload)?,
            owner: message.owner,
            node: message.node,
            state,
            nonce,
            lease_ms: message.lease_ms,
            renewals: message.renewals,
            uid: message.uid,
        };
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.owner.is_empty() {
            return Err(invalid("owner", Problem::Missing));
        }
        text::check_line(&self.owner, OWNER_BYTES_MAX).map_err(|p| invalid("owner", p))?;
        text::check_line(&self.node, OWNER_BYTES_MAX).map_err(|p| invalid("node", p))?;
        match (self.state, &self.latest) {
            (HeadState::Evacuated | HeadState::Restoring, None) => {
                Err(invalid("manifest_key", Problem::Missing))
            }
            (_, Some(latest)) if latest.epoch > self.epoch => {
                let problem = Problem::TooLarge {
                    found: latest.epoch.0,
                    most: self.epoch.0,
                };
                Err(invalid("manifest_key: epoch", problem))
            }
            _ => Ok(()),
        }
    }
}

fn latest(
    head: &image::Head,
    workload: &WorkloadName,
) -> Result<Option<LatestManifest>, FormatError> {
    let (key, digest, checkpoint) = match (
        &head.manifest_key,
        &head.manifest_digest,
        &head.checkpoint_id,
    ) {
        (None, None, None) => return Ok(None),
        (Some(key), Some(digest), Some(checkpoint)) => (key, digest, checkpoint),
        (None, ..) => return Err(invalid("manifest_key", Problem::Missing)),
        (_, None, _) => return Err(invalid("manifest_digest", Problem::Missing)),
        (.., None) => return Err(invalid("checkpoint_id", Problem::Missing)),
    };
    let refused = || invalid("manifest_key", text::refused(key));
    let ObjectKey::Checkpoint {
        workload: named,
        epoch,
        id,
    } = key.parse().map_err(|_| refused())?
    else {
        return Err(refused());
    };
    if named != *workload || id.to_string() != *checkpoint {
        return Err(refused());
    }
    let digest = digest.as_ref().try_into().map_err(|_| {
        invalid(
            "manifest_digest",
            Problem::Length {
                found: digest.len(),
                expected: 32,
            },
        )
    })?;
    Ok(Some(LatestManifest {
        checkpoint: id,
        epoch,
        digest,
    }))
}

fn invalid(field: &str, problem: Problem) -> FormatError {
    FormatError::invalid(Object::Head, field, problem)
}

impl From<HeadState> for image::HeadState {
    fn from(state: HeadState) -> Self {
        match state {
            HeadState::Running => Self::Running,
            HeadState::Evacuated => Self::Evacuated,
            HeadState::Restoring => Self::Restoring,
            HeadState::Finished => Self::Finished,
        }
    }
}

impl TryFrom<image::HeadState> for HeadState {
    type Error = ();

    fn try_from(state: image::HeadState) -> Result<Self, ()> {
        match state {
            image::HeadState::Unspecified => Err(()),
            image::HeadState::Running => Ok(Self::Running),
            image::HeadState::Evacuated => Ok(Self::Evacuated),
            image::HeadState::Restoring => Ok(Self::Restoring),
            image::HeadState::Finished => Ok(Self::Finished),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            workload: "redis-0".parse().unwrap(),
            epoch: Epoch(7),
            owner: "node-a/1".into(),
            node: "node-a".into(),
            state: HeadState::Evacuated,
            latest: Some(LatestManifest {
                checkpoint: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                epoch: Epoch(6),
                digest: [3; 32],
            }),
            nonce: [9; NONCE_BYTES],
            lease_ms: 30_000,
            renewals: 12,
            uid: 1000,
        }
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let seal = Seal::plain();
        let fresh = Head {
            latest: None,
            state: HeadState::Running,
            ..head()
        };
        for head in [head(), fresh] {
            let bytes = head.encode(&seal).unwrap();
            assert_eq!(Head::decode(&bytes, &head.workload, &seal).unwrap(), head);
        }
    }

    #[test]
    fn the_head_of_another_workload_is_refused() {
        let bytes = head().encode(&Seal::plain()).unwrap();
        assert!(Head::decode(&bytes, &"redis-1".parse().unwrap(), &Seal::plain()).is_err());
    }

    #[test]
    fn a_head_that_names_what_cannot_be_is_not_written() {
        for head in [
            Head {
                owner: String::new(),
                ..head()
            },
            Head {
                owner: "a\nb".into(),
                ..head()
            },
            Head {
                node: "x".repeat(OWNER_BYTES_MAX + 1),
                ..head()
            },
            Head {
                latest: None,
                ..head()
            },
            Head {
                epoch: Epoch(5),
                ..head()
            },
        ] {
            assert!(head.encode(&Seal::plain()).is_err(), "{head:?}");
        }
    }
}
