//! The move by Lifeboat: two daemons, one after the other.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{
    Bench,
    moves::Move,
    node::{Node, Orders},
};
use crate::workload::Shape;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(1800);

pub(super) async fn go(bench: &Bench, shape: &Shape, round: u16) -> anyhow::Result<Move> {
    let name = format!("moves-{}-{round}", std::process::id());
    let a = Node::start(bench, &format!("a{round}"), Orders::default()).await?;
    let b = Node::start(bench, &format!("b{round}"), Orders::default()).await?;
    let mut before = a.run(&name, shape)?;
    before.wait_for("ready", LIMIT).await?;
    let result = a.evacuate(&name).await?;
    let figure = |field: &str| {
        result[field]
            .as_u64()
            .with_context(|| format!("the outcome has no {field}: {result}"))
    };
    let mut one = Move {
        freeze_ms: figure("freeze_ms")?,
        safe_ms: figure("total_ms")?,
        uploaded_bytes: figure("uploaded_bytes")?,
        ..Move::default()
    };
    before.end(LIMIT).await?;
    let began = Instant::now();
    let mut after = b.run(&name, shape)?;
    let alive = after.wait_for("tick", LIMIT).await?;
    after.tell("verify").await?;
    let verified = after.wait_for("verified", LIMIT).await?;
    one.alive_ms = millis(alive - began);
    one.verified_ms = millis(verified - began);
    b.wait_for_state(&name, "running", LIMIT).await?;
    after.terminate().await?;
    a.stop().await?;
    b.stop().await?;
    Ok(one)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
