//! Names of objects in a store, and back.
//!
//! ```text
//! packs/<first 2 digits>/<32 digits>
//! workloads/<name>/checkpoints/<epoch, 20 digits>-<checkpoint id>
//! workloads/<name>/head
//! ```
//!
//! Checkpoints sort by epoch, then by time. A key that Lifeboat did not make does not parse, so that
//! whoever lists a store never touches foreign objects.

use std::{fmt, str::FromStr};

use lifeboat_proto::id::{CheckpointId, Epoch, PackId, WorkloadName};

use crate::error::{FormatError, Object, Problem};

/// Prefix of all packs.
pub const PACKS_PREFIX: &str = "packs/";

/// Prefix of all workloads.
pub const WORKLOADS_PREFIX: &str = "workloads/";

/// Digits of an epoch: as many as the largest has.
const EPOCH_DIGITS: usize = 20;

/// An object that Lifeboat keeps in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// A pack.
    Pack(PackId),
    /// A checkpoint's manifest.
    Checkpoint {
        /// The workload.
        workload: WorkloadName,
        /// Its epoch when the checkpoint was committed.
        epoch: Epoch,
        /// The checkpoint.
        id: CheckpointId,
    },
    /// A workload's head.
    Head(WorkloadName),
}

/// Key of a pack.
#[must_use]
pub fn pack(id: PackId) -> String {
    ObjectKey::Pack(id).to_string()
}

/// Key of a checkpoint's manifest.
#[must_use]
pub fn checkpoint(workload: &WorkloadName, epoch: Epoch, id: CheckpointId) -> String {
    ObjectKey::Checkpoint {
        workload: workload.clone(),
        epoch,
        id,
    }
    .to_string()
}

/// Key of a workload's head.
#[must_use]
pub fn head(workload: &WorkloadName) -> String {
    ObjectKey::Head(workload.clone()).to_string()
}

/// Prefix of all objects of a workload.
#[must_use]
pub fn workload_prefix(workload: &WorkloadName) -> String {
    format!("{WORKLOADS_PREFIX}{workload}/")
}

/// Prefix of a workload's checkpoints.
#[must_use]
pub fn checkpoints_prefix(workload: &WorkloadName) -> String {
    format!("{WORKLOADS_PREFIX}{workload}/checkpoints/")
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pack(id) => {
                let hex = id.to_hex();
                write!(f, "{PACKS_PREFIX}{}/{hex}", &hex[..2])
            }
            Self::Checkpoint {
                workload,
                epoch,
                id,
            } => {
                write!(
                    f,
                    "{WORKLOADS_PREFIX}{workload}/checkpoints/{:020}-{id}",
                    epoch.0
                )
            }
            Self::Head(workload) => write!(f, "{WORKLOADS_PREFIX}{workload}/head"),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = FormatError;

    fn from_str(key: &str) -> Result<Self, FormatError> {
        // Only the exact text that `Display` makes is a key: no second spelling of the same object.
        parse(key)
            .filter(|parsed| parsed.to_string() == key)
            .ok_or_else(|| {
                let shown = key.chars().take(200).collect();
                FormatError::invalid(Object::Key, "key", Problem::Text(shown))
            })
    }
}

fn parse(key: &str) -> Option<ObjectKey> {
    if let Some(rest) = key.strip_prefix(PACKS_PREFIX) {
        let (_, digits) = rest.split_once('/')?;
        let id = hex::decode(digits).ok()?;
        return PackId::try_from(id.as_slice()).ok().map(ObjectKey::Pack);
    }
    let (workload, rest) = key.strip_prefix(WORKLOADS_PREFIX)?.split_once('/')?;
    let workload: WorkloadName = workload.parse().ok()?;
    if rest == "head" {
        return Some(ObjectKey::Head(workload));
    }
    let (epoch, id) = rest
        .strip_prefix("checkpoints/")?
        .split_at_checked(EPOCH_DIGITS)?;
    let epoch = Epoch(epoch.parse().ok()?);
    let id = id.strip_prefix('-')?.parse().ok()?;
    Some(ObjectKey::Checkpoint {
        workload,
        epoch,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_parse_back() {
        let workload: WorkloadName = "redis-0".parse().unwrap();
        let id: CheckpointId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        for (key, text) in [
            (
                ObjectKey::Pack(PackId([0xab; 16])),
                "packs/ab/abababababababababababababababab",
            ),
            (
                ObjectKey::Checkpoint {
                    workload: workload.clone(),
                    epoch: Epoch(7),
                    id,
                },
                "workloads/redis-0/checkpoints/00000000000000000007-01890a5d-ac96-774b-bcce-b302099a8057",
            ),
            (
                ObjectKey::Checkpoint {
                    workload: workload.clone(),
                    epoch: Epoch(u64::MAX),
                    id,
                },
                "workloads/redis-0/checkpoints/18446744073709551615-01890a5d-ac96-774b-bcce-b302099a8057",
            ),
            (ObjectKey::Head(workload), "workloads/redis-0/head"),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse::<ObjectKey>().unwrap(), key);
        }
    }

    #[test]
    fn foreign_keys_and_second_spellings_do_not_parse() {
        for key in [
            "",
            "packs/",
            "packs/ab/abab",
            "packs/aa/abababababababababababababababab",
            "packs/ab/ABABABABABABABABABABABABABABABAB",
            "packs/ab/abababababababababababababababab/x",
            "workloads//head",
            "workloads/../head",
            "workloads/a/head/",
            "workloads/a/b/head",
            "workloads/a/checkpoints/7-01890a5d-ac96-774b-bcce-b302099a8057",
            "workloads/a/checkpoints/+0000000000000000007-01890a5d-ac96-774b-bcce-b302099a8057",
            "workloads/a/checkpoints/00000000000000000007-01890A5D-AC96-774B-BCCE-B302099A8057",
            "workloads/a/checkpoints/00000000000000000007-01890a5dac96774bbcceb302099a8057",
            "workloads/a/checkpoints/99999999999999999999-01890a5d-ac96-774b-bcce-b302099a8057",
            "workloads/a/checkpoints/0000000000000000000ä-01890a5d-ac96-774b-bcce-b302099a8057",
        ] {
            assert!(key.parse::<ObjectKey>().is_err(), "{key}");
        }
    }
}
