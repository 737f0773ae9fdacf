//! `lifeboat.v1.WorkloadService`.

use std::{sync::Arc, time::Duration};

use lifeboat_blockers as blockers;
use lifeboat_format::manifest::TcpPolicy;
use lifeboat_proto::{
    id::WorkloadName,
    v1::{self, workload_service_server::WorkloadService},
};
use lifeboat_track::Mode as Tracking;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{identity::Caller, outcome, status::status, view};
use crate::{
    daemon::Context,
    deadline::Deadline,
    drill,
    evacuate::{Mode, Save, report::SaveReport},
    workload::{AheadView, SharedWorkload, Workload, tree},
};

/// Most messages waiting for a caller.
const STREAM_QUEUE: usize = 64;

/// Time between messages about progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The service.
#[derive(Debug)]
pub struct Workloads {
    context: Arc<Context>,
    drain: CancellationToken,
}

/// Something to tell the caller of a save.
enum Told {
    Progress(v1::Progress),
    Result(v1::SaveResult),
}

type Tell<T> = mpsc::Sender<Result<T, Status>>;

impl Workloads {
    /// The service over the daemon's parts; saves that are under way when `drain` is cancelled are
    /// called off.
    #[must_use]
    pub const fn new(context: Arc<Context>, drain: CancellationToken) -> Self {
        Self { context, drain }
    }

    fn find(&self, name: &str, caller: &Caller) -> Result<SharedWorkload, Status> {
        let name: WorkloadName = name.parse().map_err(status)?;
        self.context.registry.find(&name, caller).map_err(status)
    }

    fn select(
        &self,
        selection: Option<v1::Selection>,
        caller: &Caller,
    ) -> Result<Vec<SharedWorkload>, Status> {
        let selection = selection.unwrap_or_default();
        match (selection.all, selection.names.is_empty()) {
            (true, true) => Ok(self.context.registry.visible(caller)),
            (false, false) => selection
                .names
                .iter()
                .map(|name| self.find(name, caller))
                .collect(),
            _ => Err(Status::invalid_argument(
                "name workloads, or say `all`; not both",
            )),
        }
    }

    /// Saves workloads, all at the same time, and tells `tell` what happens.
    fn save<T: Send + 'static>(
        &self,
        workloads: Vec<SharedWorkload>,
        mode: Mode,
        deadline: Deadline,
        wrap: fn(Told) -> T,
    ) -> ReceiverStream<Result<T, Status>> {
        let (tell, told) = mpsc::channel(STREAM_QUEUE);
        for workload in workloads {
            let context = Arc::clone(&self.context);
            let (tell, cancel) = (tell.clone(), self.drain.child_token());
            tokio::spawn(async move {
                save_one(&context, &workload, mode, deadline, &tell, cancel, wrap).await;
            });
        }
        ReceiverStream::new(told)
    }
}

async fn save_one<T: Send + 'static>(
    context: &Arc<Context>,
    workload: &SharedWorkload,
    mode: Mode,
    deadline: Deadline,
    tell: &Tell<T>,
    cancel: CancellationToken,
    wrap: fn(Told) -> T,
) {
    let report = SaveReport::default();
    let save = Save {
        context,
        workload,
        mode,
        orders: deadline.into(),
        cancel: cancel.clone(),
        report: &report,
    };
    let mut running = std::pin::pin!(save.run());
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    let result = loop {
        tokio::select! {
            result = &mut running => break result,
            () = tell.closed(), if !cancel.is_cancelled() => {
                // Whoever asked has gone away; what is not committed yet is called off.
                cancel.cancel();
            }
            () = drill::until_a_notice(context), if mode == Mode::Drill && !cancel.is_cancelled() => {
                // A rehearsal does not stand in the way of the real thing.
                cancel.cancel();
            }
            _ = ticks.tick() => {
                let progress = v1::Progress {
                    workload: workload.name.to_string(),
                    stage: report.stages().last().map_or("freeze", |stage| stage.name).to_owned(),
                    done_bytes: report.read_bytes(),
                    total_bytes: report.memory_bytes.load(std::sync::atomic::Ordering::Relaxed),
                };
                // Progress that nobody has room for is not worth waiting.
                drop(tell.try_send(Ok(wrap(Told::Progress(progress)))));
            }
        }
    };
    outcome::count(context, mode, &report, &result);
    let message = outcome::message(workload, mode, deadline, &report, &result);
    outcome::log(workload, mode, deadline, &report, &result);
    drop(tell.send(Ok(wrap(Told::Result(message)))).await);
}

fn deadline(budget: Option<v1::Budget>) -> Result<Deadline, Status> {
    let Some(budget) = budget else {
        return Ok(Deadline::NONE);
    };
    let within = budget
        .within
        .ok_or_else(|| Status::invalid_argument("the budget is empty"))?;
    // Not by prost's conversion, which panics on some values.
    let seconds = u64::try_from(within.seconds);
    let nanos = u32::try_from(within.nanos);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) => {
            Ok(Deadline::within(Duration::new(seconds, nanos)))
        }
        _ => Err(Status::invalid_argument(format!(
            "the budget of {} s and {} ns is none",
            within.seconds, within.nanos
        ))),
    }
}

#[tonic::async_trait]
impl WorkloadService for Workloads {
    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;
    type EvacuateStream = ReceiverStream<Result<v1::EvacuateResponse, Status>>;
    type CheckpointStream = ReceiverStream<Result<v1::CheckpointResponse, Status>>;
    type DrillStream = ReceiverStream<Result<v1::DrillResponse, Status>>;

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        let caller = Caller::of(&request)?;
        let workload = super::attach::attach(&self.context, &caller, request.into_inner()).await?;
        let workload = Some(view::workload(&self.context, &workload));
        Ok(Response::new(v1::AttachResponse { workload }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let caller = Caller::of(&request)?;
        let workloads = self.context.registry.visible(&caller);
        let workloads = workloads
            .iter()
            .map(|one| view::workload(&self.context, one))
            .collect();
        Ok(Response::new(v1::ListResponse { workloads }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let caller = Caller::of(&request)?;
        let workload = self.find(&request.get_ref().name, &caller)?;
        let shown = view::workload(&self.context, &workload);
        let pid = shown.pid;
        let policy = policy(&workload);
        let tracking = workload.view().ahead;
        let inspected = tokio::task::spawn_blocking(move || {
            // A workload that has just ended has nothing that stands in its way.
            let found = blockers::inspect(pid, &policy).unwrap_or_default();
            (found, tree::processes(pid).unwrap_or_default())
        });
        let (found, processes) = inspected
            .await
            .map_err(|_| Status::internal("the inspection panicked"))?;
        Ok(Response::new(v1::GetResponse {
            workload: Some(shown),
            blockers: found.into_iter().map(blocker).collect(),
            processes: processes
                .into_iter()
                .map(|one| process(one, &tracking))
                .collect(),
        }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let workload = self.find(&request.get_ref().name, &caller)?;
        let (tell, told) = mpsc::channel(STREAM_QUEUE);
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            let mut changes = workload.watch();
            loop {
                let event = changes.borrow_and_update().event.clone();
                let shown = Some(view::workload(&context, &workload));
                let message = v1::WatchResponse {
                    workload: shown,
                    event,
                };
                if tell.send(Ok(message)).await.is_err() || changes.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn evacuate(
        &self,
        request: Request<v1::EvacuateRequest>,
    ) -> Result<Response<Self::EvacuateStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deadline = deadline(request.budget)?;
        let workloads = self.select(request.selection, &caller)?;
        let stream = self.save(workloads, Mode::Evacuate, deadline, |told| {
            v1::EvacuateResponse {
                event: Some(match told {
                    Told::Progress(progress) => v1::evacuate_response::Event::Progress(progress),
                    Told::Result(result) => v1::evacuate_response::Event::Result(result),
                }),
            }
        });
        Ok(Response::new(stream))
    }

    async fn checkpoint(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<Self::CheckpointStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deadline = deadline(request.budget)?;
        let workloads = self.select(request.selection, &caller)?;
        let stream = self.save(workloads, Mode::Checkpoint, deadline, |told| {
            v1::CheckpointResponse {
                event: Some(match told {
                    Told::Progress(progress) => v1::checkpoint_response::Event::Progress(progress),
                    Told::Result(result) => v1::checkpoint_response::Event::Result(result),
                }),
            }
        });
        Ok(Response::new(stream))
    }

    async fn drill(
        &self,
        request: Request<v1::DrillRequest>,
    ) -> Result<Response<Self::DrillStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let deadline = deadline(request.budget)?;
        let workloads = self.select(request.selection, &caller)?;
        let stream = self.save(workloads, Mode::Drill, deadline, |told| v1::DrillResponse {
            event: Some(match told {
                Told::Progress(progress) => v1::drill_response::Event::Progress(progress),
                Told::Result(result) => v1::drill_response::Event::Result(result),
            }),
        });
        Ok(Response::new(stream))
    }
}

fn policy(workload: &Workload) -> blockers::Policy {
    blockers::Policy {
        tcp: match workload.tcp {
            TcpPolicy::Close => blockers::Tcp::Close,
            TcpPolicy::Keep => blockers::Tcp::Keep,
        },
        held: workload.held,
        preserve: workload.preserved(),
        carried_pipes: workload.streams().iter().map(|pipe| pipe.inode).collect(),
        ..blockers::Policy::default()
    }
}

fn blocker(found: blockers::Blocker) -> v1::Blocker {
    v1::Blocker {
        kind: found.kind.as_str().to_owned(),
        pid: found.pid,
        detail: found.detail,
        fatal: found.fatal,
    }
}

fn process(process: tree::Process, ahead: &Option<Arc<AheadView>>) -> v1::Process {
    let modes = ahead.iter().flat_map(|ahead| &ahead.modes);
    let mode = modes
        .into_iter()
        .find(|(pid, ..)| *pid == process.pid)
        .map(|(_, mode, why)| (*mode, why.as_deref()));
    v1::Process {
        pid: process.pid,
        inner_pid: process.inner_pid,
        name: process.name,
        threads: process.threads,
        resident_bytes: process.resident_bytes,
        tracking: mode.map_or_else(|| "none".to_owned(), |(mode, why)| tracking(mode, why)),
    }
}

/// How writes to a process are found, for people.
fn tracking(mode: Tracking, why: Option<&str>) -> String {
    let mode = match mode {
        Tracking::WriteProtect => "write-protect",
        Tracking::Hash => "hash",
        Tracking::Everything => "none",
    };
    why.map_or_else(|| mode.to_owned(), |why| format!("{mode} ({why})"))
}
