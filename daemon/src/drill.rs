//! Rehearsals of an eviction: by timer (`[drill] interval`), and what all of them have shown.
//!
//! A drill is what a notice starts, up to the commit (see [`Mode::Drill`]): the workloads are frozen as
//! shortly as they would be, and run on. It never stands in the way of the real thing: none begins while
//! a notice stands, and one that is under way is called off by a notice ([`until_a_notice`]).

use std::{sync::Arc, time::Duration};

use lifeboat_proto::v1;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    daemon::Context,
    deadline::Deadline,
    evacuate::{Mode, Save, report::SaveReport},
    observe::chain,
    service::{identity::Caller, outcome, view},
    workload::{Phase, SharedWorkload},
};

/// Most workloads that are rehearsed at one time: as many as are saved at a notice.
const AT_ONCE: usize = 4;

/// Shortest interval: each drill freezes every workload.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Share of the interval by which drills are put off at random, so that the nodes of a cluster do not
/// rehearse at the same time.
const SPREAD: f64 = 0.1;

/// The `[drill]` section of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrillConfig {
    /// Time between drills; none: no drills but by call.
    #[serde(with = "humantime_serde")]
    pub interval: Option<Duration>,
    /// The notice that is rehearsed; without it, `notice`.
    #[serde(with = "humantime_serde")]
    pub within: Option<Duration>,
}

impl DrillConfig {
    /// What is wrong with the section, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self
            .interval
            .is_some_and(|interval| interval < INTERVAL_MIN)
        {
            return Some("an interval is at least 1s; write for example '6h'");
        }
        if self.within.is_some_and(|within| within < INTERVAL_MIN) {
            return Some("in less than 1s nothing can be saved; write for example '25s'");
        }
        None
    }
}

/// Rehearses by timer until `drain` is cancelled; at once done when no interval is configured.
pub async fn run(context: Arc<Context>, drain: CancellationToken) {
    let Some(interval) = context.config.drill.interval else {
        return;
    };
    loop {
        let pause = interval + interval.mul_f64(SPREAD * rand::random::<f64>());
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        rehearse(&context, &drain).await;
    }
}

/// Rehearses the eviction of all workloads once.
async fn rehearse(context: &Arc<Context>, drain: &CancellationToken) {
    let cancel = drain.child_token();
    let within = context.config.drill.within.unwrap_or(context.config.notice);
    let deadline = Deadline::within(within);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut drills = JoinSet::new();
    for workload in context.registry.visible(&Caller::operator()) {
        if !is_here(&workload) {
            continue;
        }
        let (context, turns, cancel) = (Arc::clone(context), Arc::clone(&turns), cancel.clone());
        drills.spawn(async move {
            let _turn = turns.acquire().await;
            if !cancel.is_cancelled() {
                rehearse_one(&context, &workload, deadline, cancel).await;
            }
        });
    }
    if drills.is_empty() {
        return;
    }
    let all = async { while drills.join_next().await.is_some() {} };
    tokio::pin!(all);
    tokio::select! {
        () = &mut all => return,
        () = until_a_notice(context) => {
            tracing::warn!("the drill is called off: a notice stands");
            cancel.cancel();
        }
    }
    all.await;
}

async fn rehearse_one(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    deadline: Deadline,
    cancel: CancellationToken,
) {
    let report = SaveReport::default();
    let save = Save {
        context,
        workload,
        mode: Mode::Drill,
        orders: deadline.into(),
        cancel,
        report: &report,
    };
    let result = save.run().await;
    outcome::count(context, Mode::Drill, &report, &result);
    outcome::log(workload, Mode::Drill, deadline, &report, &result);
    if let Err(error) = &result {
        let error = chain(error);
        tracing::warn!(workload = %workload.name, error, "it would not have been saved");
    }
}

/// Waits until a notice stands that ends programs.
pub async fn until_a_notice(context: &Context) {
    let mut urgent = context.hurry.subscribe();
    let comes = urgent.wait_for(|kind| kind.is_some_and(lifeboat_watch::Kind::ends_programs));
    if comes.await.is_err() {
        // The daemon is at its end, and so is whoever waits.
        std::future::pending().await
    }
}

/// Whether a workload is on this node.
fn is_here(workload: &SharedWorkload) -> bool {
    matches!(
        workload.view().phase,
        Phase::Running | Phase::Saving | Phase::Loading
    )
}

/// The last rehearsals of those of `workloads` that are here, taken together.
#[must_use]
pub fn summary(workloads: &[SharedWorkload]) -> Option<v1::DrillSummary> {
    let mut summary = v1::DrillSummary::default();
    let mut latest = None;
    let mut least: Option<i64> = None;
    for workload in workloads.iter().filter(|one| is_here(one)) {
        let Some(drill) = workload.view().last_drill else {
            continue;
        };
        summary.rehearsed += 1;
        latest = latest.max(Some(drill.at));
        if drill.error.is_some() {
            summary.not_saved.push(workload.name.to_string());
        } else if let Some(margin) = drill.margin_ms
            && least.is_none_or(|least| margin < least)
        {
            least = Some(margin);
            summary.least_margin_of = workload.name.to_string();
        }
    }
    summary.ended_at = Some(latest?.into());
    summary.least_margin = least.map(view::milliseconds);
    Some(summary)
}
