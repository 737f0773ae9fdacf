//! Who has the right to commit: the head of a workload, changed by compare-and-set only.
//!
//! Guarantees:
//! - At most one hold owns a workload at any time. Each claim raises the fencing epoch, and every
//!   later write of the former owner fails with [`ClaimError::Lost`].
//! - No clock of another machine is trusted. A silent owner's lease is measured by the observer's
//!   own clock from the last change that it saw ([`wait`]).
//! - A write whose answer was lost is never taken for either outcome: [`Heads::settle`] finds out,
//!   and fences the lost write off when it has not happened.

mod decide;
mod wait;

use std::{sync::Arc, time::Duration};

use lifeboat_format::{
    head::{Head, HeadState, LatestManifest},
    keys,
    seal::Seal,
};
use lifeboat_proto::id::{CheckpointId, Epoch, WorkloadName};
use lifeboat_store::{Call, ErrorKind, Key, Store, StoreError, Version};

pub use decide::{Decision, Wish, decide};

/// Largest head object, in bytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// Longest time for reading or writing a head when nothing else limits it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Most lost races before a claim gives up.
const RACES_MAX: u32 = 16;

/// Why a workload cannot be claimed, or a head not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The store failed.
    #[error("{what} the head of workload {name}")]
    Store {
        /// What was attempted.
        what: &'static str,
        /// The workload.
        name: WorkloadName,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The head cannot be understood.
    #[error("the head of workload {name} cannot be understood; nothing was changed")]
    Damaged {
        /// The workload.
        name: WorkloadName,
        /// What is wrong with it.
        #[source]
        source: lifeboat_format::FormatError,
    },
    /// It belongs to somebody else.
    #[error("workload {name} belongs to user {owner} in this store; choose another name")]
    Foreign {
        /// The workload.
        name: WorkloadName,
        /// Who owns it.
        owner: u32,
    },
    /// It runs elsewhere.
    #[error(
        "workload {name} runs on node {node} (epoch {epoch}); evacuate it there, or take it over \
         from its last checkpoint with --take-over"
    )]
    RunsElsewhere {
        /// The workload.
        name: WorkloadName,
        /// Its node.
        node: String,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Somebody else has claimed it meanwhile.
    #[error(
        "this node no longer has the right to commit workload {name}: node {node} claimed it with \
         epoch {epoch}"
    )]
    Lost {
        /// The workload.
        name: WorkloadName,
        /// Who has it now.
        node: String,
        /// The epoch now.
        epoch: Epoch,
    },
    /// The answer to a write was lost.
    #[error("it is not known whether the head of workload {name} was written")]
    Unknown {
        /// The workload.
        name: WorkloadName,
        /// What the store said last.
        #[source]
        source: StoreError,
    },
    /// Others were faster every time.
    #[error("claim workload {name}: lost {RACES_MAX} races in a row")]
    Contended {
        /// The workload.
        name: WorkloadName,
    },
    /// The name is too long for the store.
    #[error("workload {name} has no place in the store: {reason}")]
    Unplaced {
        /// The workload.
        name: WorkloadName,
        /// Why.
        reason: String,
    },
}

impl ClaimError {
    /// Whether somebody else has the workload now: nothing that this node does can be committed.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// Whether the write may have happened.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// The right to commit, as last confirmed by the store.
#[derive(Clone, Debug)]
pub struct Right {
    /// The head as this owner wrote it.
    pub head: Head,
    version: Version,
}

/// Reads and writes heads.
#[derive(Clone, Debug)]
pub struct Heads {
    store: Arc<dyn Store>,
    seal: Arc<Seal>,
    node: String,
    lease: Duration,
}

impl Heads {
    /// Heads in `store`, written in the name of `node`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, seal: Arc<Seal>, node: String, lease: Duration) -> Self {
        Self {
            store,
            seal,
            node,
            lease,
        }
    }

    /// The head of a workload, if it has one.
    ///
    /// # Errors
    /// When the store fails or the head is damaged.
    pub async fn read(&self, name: &WorkloadName) -> Result<Option<Right>, ClaimError> {
        let key = key(name)?;
        let call = Call::within(HEAD_TIMEOUT);
        match self.store.get(&key, HEAD_BYTES_MAX, call).await {
            Ok(object) => {
                let head = Head::decode(&object.bytes, name, &self.seal).map_err(|source| {
                    ClaimError::Damaged {
                        name: name.clone(),
                        source,
                    }
                })?;
                Ok(Some(Right {
                    head,
                    version: object.version,
                }))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(source) => Err(ClaimError::Store {
                what: "read",
                name: name.clone(),
                source,
            }),
        }
    }

    /// Claims a workload for `wish.owner`: waits for an owner who is about to let go, and decides
    /// between a start and a restore.
    ///
    /// # Errors
    /// When it is another user's, or runs elsewhere and its owner shows signs of life.
    pub async fn claim(
        &self,
        name: &WorkloadName,
        wish: &Wish,
        mut progress: impl FnMut(&Head) + Send,
    ) -> Result<(Right, Decision), ClaimError> {
        let mut silence = wait::Silence::default();
        for _ in 0..RACES_MAX {
            let present = loop {
                let present = self.read(name).await?;
                match wait::verdict(name, wish, present.as_ref(), &mut silence)? {
                    wait::Verdict::Go => break present,
                    wait::Verdict::Wait(head) => progress(head),
                }
                tokio::time::sleep(wait::POLL_INTERVAL).await;
            };
            let decision = decide(wish, present.as_ref().map(|right| &right.head));
            let head = self.claimed(
                name,
                wish,
                present.as_ref().map(|right| &right.head),
                &decision,
            );
            match self
                .write(name, present.as_ref().map(|right| &right.version), head)
                .await
            {
                Ok(right) => return Ok((right, decision)),
                Err(ClaimError::Lost { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ClaimError::Contended { name: name.clone() })
    }

    /// The right of an owner whose workload runs already: as it is in the store, or claimed anew if
    /// the workload was started while the store or the daemon was away.
    ///
    /// # Errors
    /// As for [`Heads::claim`].
    pub async fn reclaim(&self, name: &WorkloadName, wish: &Wish) -> Result<Right, ClaimError> {
        match self.read(name).await? {
            Some(right) if right.head.owner == wish.owner => Ok(right),
            _ => Ok(self.claim(name, wish, |_| {}).await?.0),
        }
    }

    fn claimed(
        &self,
        name: &WorkloadName,
        wish: &Wish,
        present: Option<&Head>,
        decision: &Decision,
    ) -> Head {
        let restore = matches!(decision, Decision::Restore { .. });
        Head {
            workload: name.clone(),
            epoch: Epoch(present.map_or(0, |head| head.epoch.0) + 1),
            owner: wish.owner.clone(),
            node: self.node.clone(),
            state: if restore {
                HeadState::Restoring
            } else {
                HeadState::Running
            },
            latest: present.filter(|_| restore).and_then(|head| head.latest),
            nonce: rand::random(),
            lease_ms: self.lease_ms(),
            renewals: 0,
            uid: present.map_or(wish.uid, |head| head.uid),
        }
    }

    /// Changes the head of a workload that this node has the right to. `right` follows.
    ///
    /// # Errors
    /// [`ClaimError::Lost`] when somebody else has claimed it; [`ClaimError::Unknown`] when the
    /// answer was lost: `right` is unchanged then, see [`Heads::settle`].
    pub async fn change(
        &self,
        name: &WorkloadName,
        right: &mut Right,
        state: HeadState,
        latest: Option<LatestManifest>,
    ) -> Result<(), ClaimError> {
        let head = self.next(right, state, latest);
        *right = self.write(name, Some(&right.version), head).await?;
        Ok(())
    }

    /// Shows a sign of life.
    ///
    /// # Errors
    /// As for [`Heads::change`].
    pub async fn renew(&self, name: &WorkloadName, right: &mut Right) -> Result<(), ClaimError> {
        let (state, latest) = (right.head.state, right.head.latest);
        self.change(name, right, state, latest).await
    }

    /// Finds out whether a commit of `checkpoint` whose answer was lost has happened. When it has
    /// not, it is fenced off by a write of its own: it cannot happen any more.
    ///
    /// # Errors
    /// When the store still does not answer: the outcome is as unknown as before.
    pub async fn settle(
        &self,
        name: &WorkloadName,
        right: &mut Right,
        checkpoint: CheckpointId,
    ) -> Result<bool, ClaimError> {
        let fence = self.next(right, right.head.state, right.head.latest);
        match self.write(name, Some(&right.version), fence).await {
            Ok(fenced) => {
                *right = fenced;
                Ok(false)
            }
            Err(ClaimError::Lost { .. }) => {
                let Some(present) = self.read(name).await? else {
                    return Err(lost(name, None));
                };
                // A successor may have claimed the committed checkpoint already: that, too, says
                // that it was committed.
                let committed = present
                    .head
                    .latest
                    .as_ref()
                    .is_some_and(|latest| latest.checkpoint == checkpoint);
                let is_ours = present.head.owner == right.head.owner;
                if !committed && !is_ours {
                    return Err(lost(name, Some(&present.head)));
                }
                // A successor's right is the successor's: with it this node could commit over it.
                if is_ours {
                    *right = present;
                }
                Ok(committed)
            }
            Err(error) => Err(error),
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    fn next(&self, right: &Right, state: HeadState, latest: Option<LatestManifest>) -> Head {
        Head {
            state,
            latest,
            nonce: rand::random(),
            renewals: right.head.renewals + 1,
            node: self.node.clone(),
            lease_ms: self.lease_ms(),
            ..right.head.clone()
        }
    }

    async fn write(
        &self,
        name: &WorkloadName,
        version: Option<&Version>,
        head: Head,
    ) -> Result<Right, ClaimError> {
        let key = key(name)?;
        let body = head
            .encode(&self.seal)
            .map_err(|source| ClaimError::Damaged {
                name: name.clone(),
                source,
            })?;
        let call = Call::within(HEAD_TIMEOUT);
        let result = match version {
            Some(version) => self.store.put_if_match(&key, body, version, call).await,
            None => self.store.put_if_absent(&key, body, call).await,
        };
        match result {
            Ok(version) => Ok(Right { head, version }),
            Err(error) => match error.kind() {
                ErrorKind::Conflict | ErrorKind::AlreadyExists => {
                    let present = self.read(name).await?;
                    match present {
                        // The store had done it after all and told a later attempt otherwise.
                        Some(right) if right.head.nonce == head.nonce => Ok(right),
                        present => Err(lost(name, present.as_ref().map(|right| &right.head))),
                    }
                }
                ErrorKind::Unknown | ErrorKind::Deadline => Err(ClaimError::Unknown {
                    name: name.clone(),
                    source: error,
                }),
                _ => Err(ClaimError::Store {
                    what: "write",
                    name: name.clone(),
                    source: error,
                }),
            },
        }
    }
}

fn lost(name: &WorkloadName, present: Option<&Head>) -> ClaimError {
    ClaimError::Lost {
        name: name.clone(),
        node: present.map_or_else(|| "unknown".to_owned(), |head| head.node.clone()),
        epoch: present.map_or(Epoch(0), |head| head.epoch),
    }
}

fn key(name: &WorkloadName) -> Result<Key, ClaimError> {
    keys::head(name)
        .parse()
        .map_err(|error: lifeboat_store::KeyError| ClaimError::Unplaced {
            name: name.clone(),
            reason: error.to_string(),
        })
}
