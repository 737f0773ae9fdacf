//! When may a workload be claimed that has an owner?
//!
//! At once when its owner has let go. Otherwise a claimer waits: the owner may be evacuating at this
//! moment. It looks for changes of the head; when there was none for the owner's lease by the
//! claimer's own clock, the owner is presumed dead. An owner that keeps renewing is alive and is not
//! about to let go, so the claimer is refused after [`ALIVE_LEASES`].

use std::time::{Duration, Instant};

use lifeboat_format::head::{Head, HeadState};
use lifeboat_proto::id::WorkloadName;

use super::{ClaimError, Right, Wish};

/// Time between looks at a head. Half of it is part of every handover, since nobody is told of a commit;
/// and it is one small request each.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a claimer waits for an owner that shows signs of life to let go, in leases of that
/// owner: an evacuation lasts as long as a cloud's notice, and a lease is about as long.
const ALIVE_LEASES: u32 = 4;

/// What a claimer has seen of a head.
#[derive(Debug, Default)]
pub(super) struct Silence {
    began: Option<Instant>,
    last: Option<([u8; 16], Instant)>,
}

/// What a claimer does next.
pub(super) enum Verdict<'a> {
    /// Claim.
    Go,
    /// Look again.
    Wait(&'a Head),
}

pub(super) fn verdict<'a>(
    name: &WorkloadName,
    wish: &Wish,
    present: Option<&'a Right>,
    silence: &mut Silence,
) -> Result<Verdict<'a>, ClaimError> {
    let Some(Right { head, .. }) = present else {
        return Ok(Verdict::Go);
    };
    if wish.uid != 0 && wish.uid != head.uid {
        return Err(ClaimError::Foreign {
            name: name.clone(),
            owner: head.uid,
        });
    }
    let let_go = matches!(head.state, HeadState::Evacuated | HeadState::Finished);
    if let_go || head.owner == wish.owner || wish.take_over {
        return Ok(Verdict::Go);
    }
    let lease = Duration::from_millis(head.lease_ms);
    let now = Instant::now();
    let began = *silence.began.get_or_insert(now);
    let unchanged_since = match silence.last {
        Some((nonce, since)) if nonce == head.nonce => since,
        _ => now,
    };
    silence.last = Some((head.nonce, unchanged_since));
    if now.duration_since(unchanged_since) > lease {
        return Ok(Verdict::Go);
    }
    if now.duration_since(began) > lease * ALIVE_LEASES {
        return Err(ClaimError::RunsElsewhere {
            name: name.clone(),
            node: head.node.clone(),
            epoch: head.epoch,
        });
    }
    Ok(Verdict::Wait(head))
}
