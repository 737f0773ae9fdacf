//! Acts on notices. Who gives them, and how many of them are one, is the business of `lifeboat-watch`;
//! here is what the daemon does with its stream: [`respond`] evacuates, or stops evacuating.

mod respond;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lifeboat_proto::v1;
use lifeboat_watch::{
    Answered, Board, Detected, Feed, Kind, Notice, Scope, Setup, Sighting, Source, Tasks, Watching,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{daemon::Context, observe::metrics::NoticeLabels};

/// The only event of the machine that a call knows; for a pod it is its UID.
const CALL_KEY: &str = "call";

/// Longest UID of a pod that a call may name, in bytes.
const POD_UID_BYTES_MAX: usize = 64;

/// Longest time that a call may give.
const CALL_WITHIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// What watches and acts; it ends when this is dropped.
#[derive(Debug)]
pub struct Watched {
    _sources: Tasks,
    feed: Feed,
    answered: watch::Receiver<Answered>,
    responding: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.responding.abort();
    }
}

/// Starts the sources that the configuration asks for, and acts on what they say.
#[must_use]
pub fn start(context: &Arc<Context>, drain: &CancellationToken) -> Watched {
    let config = &context.config;
    let figures = context.metrics.notice_detection.clone();
    let detected = move |source: Source, after: Duration| {
        let source = source.name();
        figures
            .get_or_create(&NoticeLabels { source })
            .observe(after.as_secs_f64());
    };
    let Watching {
        feed,
        changes,
        answered,
        tasks,
    } = lifeboat_watch::start(&Setup {
        config: config.watch.clone(),
        state_dir: config.state_dir.clone(),
        notice: config.notice,
        board: context.sources.clone(),
        hurry: context.hurry.clone(),
        detected: Detected(Arc::new(detected)),
    });
    // The first one stays: there is only one daemon.
    context.feed.get_or_init(|| feed.clone());
    let heard = answered.subscribe();
    let responding = respond::run(changes, answered, Arc::clone(context), drain.clone());
    Watched {
        _sources: tasks,
        feed,
        answered: heard,
        responding: tokio::spawn(responding),
    }
}

impl Watched {
    /// The whole machine is going down, and this daemon with it: saves everything before it ends. What
    /// was saved already, by another notice, is not saved again.
    pub async fn machine_is_stopping(&self, context: &Context) {
        let mut answered = self.answered.clone();
        let within = context.config.notice;
        let sighting = Sighting::new(Source::Signal, "SIGTERM")
            .kind(Kind::Maintenance)
            .within(within);
        self.feed.seen(sighting).await;
        let is_answered = answered.wait_for(|answered| answered.number > 0);
        // Late or not, it ends now.
        drop(tokio::time::timeout(within, is_answered).await);
    }

    /// Waits, after the drain has begun, until no answer is under way.
    pub async fn finished(mut self) {
        // A panic was logged by the runtime.
        drop((&mut self.responding).await);
    }
}

/// Takes in a notice that came by a call; returns how long what goes stays, unless it was taken back.
///
/// # Errors
/// When the request says nothing that can be acted on.
pub async fn by_call(
    feed: &Feed,
    request: &v1::GiveNoticeRequest,
    notice: Duration,
) -> Result<Option<Duration>, Status> {
    let (key, scope) = subject(&request.pod_uid)?;
    if request.withdraw {
        feed.gone(Source::Call, key).await;
        return Ok(None);
    }
    let kind = match request.kind() {
        v1::NoticeKind::Unspecified => {
            return Err(Status::invalid_argument("say what kind of notice it is"));
        }
        v1::NoticeKind::Early => Kind::Early,
        v1::NoticeKind::Preemption => Kind::Preemption,
        v1::NoticeKind::Maintenance => Kind::Maintenance,
    };
    let given = request.budget.as_ref().and_then(|budget| budget.within);
    let within = match given.map(Duration::try_from) {
        None => notice,
        Some(Ok(within)) => within.min(CALL_WITHIN_MAX),
        Some(Err(_)) => return Err(Status::invalid_argument("the budget is not a duration")),
    };
    feed.seen(
        Sighting::new(Source::Call, key)
            .kind(kind)
            .scope(scope)
            .within(within),
    )
    .await;
    Ok(Some(within))
}

/// The event's key, and what will go.
fn subject(pod_uid: &str) -> Result<(&str, Scope), Status> {
    if pod_uid.is_empty() {
        return Ok((CALL_KEY, Scope::Machine));
    }
    let is_uid = pod_uid.len() <= POD_UID_BYTES_MAX
        && pod_uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_uid || pod_uid == CALL_KEY {
        return Err(Status::invalid_argument(format!(
            "{pod_uid:?} is not the UID of a pod; `kubectl get pod NAME -o \
             jsonpath='{{.metadata.uid}}'` prints it"
        )));
    }
    let uid = pod_uid.to_owned();
    Ok((pod_uid, Scope::Pod { uid }))
}

/// A notice as the API shows it.
#[must_use]
pub fn shown(notice: &Notice) -> v1::Notice {
    let kind = match notice.kind {
        Kind::Early => v1::NoticeKind::Early,
        Kind::Preemption => v1::NoticeKind::Preemption,
        Kind::Maintenance => v1::NoticeKind::Maintenance,
    };
    let deadline = notice.remaining().map(|left| SystemTime::now() + left);
    v1::Notice {
        source: notice.source().name().to_owned(),
        kind: kind.into(),
        deadline: deadline.map(Into::into),
        sources: notice.sources.iter().map(ToString::to_string).collect(),
    }
}

/// The sources as the API shows them.
#[must_use]
pub fn shown_sources(board: &Board) -> Vec<v1::NoticeSource> {
    let all = board.sources().into_iter();
    let shown = all.map(|one| {
        let (failed_at, failure) = one.failed.unzip();
        v1::NoticeSource {
            name: one.source.name().to_owned(),
            target: one.target,
            succeeded_at: one.succeeded_at.map(Into::into),
            failed_at: failed_at.map(Into::into),
            failure: failure.unwrap_or_default(),
        }
    });
    shown.collect()
}
