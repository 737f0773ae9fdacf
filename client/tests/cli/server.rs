//! A daemon with fixed answers.

use std::{collections::BTreeMap, path::PathBuf, pin::Pin, time::Duration};

use lifeboat_proto::v1::{
    AddressSpaceEntry, AttachRequest, AttachResponse, Blocker, Capability, CapabilityState,
    CheckRequest, CheckResponse, CheckpointEntry, CheckpointRequest, CheckpointResponse,
    CheckpointServiceListRequest, CheckpointServiceListResponse, CheckpointSummary, CodecCost,
    CodecUse, CollectGarbageRequest, CollectGarbageResponse, DeleteRequest, DeleteResponse,
    DrillRequest, DrillResponse, DrillSummary, EvacuateRequest, EvacuateResponse, GetRequest,
    GetResponse, GetStatusRequest, GetStatusResponse, GiveNoticeRequest, GiveNoticeResponse,
    ImageFileEntry, InspectRequest, InspectResponse, ListRequest, ListResponse, Notice, NoticeKind,
    NoticeSource, PackEntry, PrefetchRequest, PrefetchResponse, Process, Progress, Rates,
    SaveOutcome, SaveResult, StageTime, TcpPolicy, VerifyRequest, VerifyResponse, WarmCheckpoint,
    WatchRequest, WatchResponse, Workload, WorkloadState, checkpoint_response,
    checkpoint_service_server::{CheckpointService, CheckpointServiceServer},
    drill_response, evacuate_response,
    node_service_server::{NodeService, NodeServiceServer},
    workload_service_server::{WorkloadService, WorkloadServiceServer},
};
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

pub(crate) const FIRST: &str = "0197f3a2-0000-7000-8000-000000000001";
pub(crate) const SECOND: &str = "0197f3a2-0000-7000-8000-000000000002";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The daemon. It stops when this value is dropped.
pub(crate) struct Daemon {
    directory: TempDir,
    _runtime: Runtime,
}

/// What it answers to a wish to save.
#[derive(Clone, Default)]
struct Answering {
    outcomes: BTreeMap<&'static str, SaveResult>,
    breaks: bool,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::answering(Answering::default())
    }

    /// One whose outcomes are these.
    pub(crate) fn with_outcomes(outcomes: &[(&'static str, SaveResult)]) -> Self {
        Self::answering(Answering {
            outcomes: outcomes.iter().cloned().collect(),
            breaks: false,
        })
    }

    /// One whose streams break in the middle.
    pub(crate) fn that_breaks(outcomes: &[(&'static str, SaveResult)]) -> Self {
        Self::answering(Answering {
            outcomes: outcomes.iter().cloned().collect(),
            breaks: true,
        })
    }

    fn answering(answering: Answering) -> Self {
        let directory = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket = directory.path().join("lifeboatd.sock");
        let _inside = runtime.enter();
        let listener = UnixListener::bind(socket).unwrap();
        let server = Server::builder()
            .add_service(NodeServiceServer::new(answering.clone()))
            .add_service(WorkloadServiceServer::new(answering.clone()))
            .add_service(CheckpointServiceServer::new(answering))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self {
            directory,
            _runtime: runtime,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("lifeboatd.sock")
    }
}

pub(crate) fn duration(milliseconds: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: milliseconds / 1000,
        nanos: i32::try_from(milliseconds % 1000).unwrap() * 1_000_000,
    }
}

const fn moment(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_750_000_000 + seconds,
        nanos: 0,
    })
}

fn summary(id: &str) -> CheckpointSummary {
    CheckpointSummary {
        id: id.into(),
        frozen_at: moment(60),
        memory_bytes: 1 << 30,
        epoch: 3,
    }
}

fn cache() -> Workload {
    Workload {
        name: "cache".into(),
        state: WorkloadState::Running.into(),
        pid: 4321,
        uid: 1000,
        memory_bytes: (1 << 30) + (1 << 29),
        unsaved_bytes: 64 << 20,
        time_to_safe: Some(duration(1450)),
        last_checkpoint: Some(summary(FIRST)),
        argv: vec!["redis-server".into(), "--save".into(), String::new()],
        held: true,
        priority: 5,
        tcp: TcpPolicy::Keep.into(),
        epoch: 3,
        registered_at: moment(0),
        missing_bytes: 0,
        not_evacuable: String::new(),
        precopy: None,
        last_drill: None,
        last_error: String::new(),
    }
}

fn job() -> Workload {
    Workload {
        name: "job-7".into(),
        state: WorkloadState::Loading.into(),
        pid: 77,
        memory_bytes: 4096,
        unsaved_bytes: 4096,
        missing_bytes: 2048,
        argv: vec!["python3".into(), "train.py".into()],
        last_error: "store refused the upload: 503".into(),
        ..Workload::default()
    }
}

/// A result that went well.
fn codec_use(codec: &str) -> CodecUse {
    CodecUse {
        codec: codec.into(),
        frames: 96,
        raw_bytes: 48 << 20,
        stored_bytes: 16 << 20,
    }
}

pub(crate) fn saved(workload: &str, outcome: SaveOutcome) -> SaveResult {
    let stage = |stage: &str, after| StageTime {
        stage: stage.into(),
        ended_after: Some(duration(after)),
    };
    SaveResult {
        workload: workload.into(),
        checkpoint: SECOND.into(),
        outcome: outcome.into(),
        error: String::new(),
        freeze: Some(duration(120)),
        total: Some(duration(3400)),
        memory_bytes: 1 << 30,
        read_bytes: 64 << 20,
        uploaded_bytes: 20 << 20,
        stages: vec![stage("freeze", 2000), stage("commit", 3400)],
        margin: Some(duration(21_600)),
        codecs: vec![codec_use("lz4")],
    }
}

impl Answering {
    /// Progress and results for the selected workloads.
    fn events(&self, selection: Option<lifeboat_proto::v1::Selection>) -> Vec<Event> {
        let selection = selection.unwrap_or_default();
        let asked = |name: &str| selection.all || selection.names.iter().any(|asked| asked == name);
        let mut events = Vec::new();
        for (name, result) in &self.outcomes {
            if asked(name) {
                events.push(Ok(Either::Progress(Progress {
                    workload: (*name).into(),
                    stage: "upload".into(),
                    done_bytes: 1,
                    total_bytes: 2,
                })));
                events.push(Ok(Either::Result(result.clone())));
            }
        }
        if self.breaks {
            events.push(Err(Status::internal("the store is on fire")));
        }
        events
    }
}

enum Either {
    Progress(Progress),
    Result(SaveResult),
}

type Event = Result<Either, Status>;

fn stream<T: Send + 'static>(
    events: Vec<Event>,
    wrap: impl Fn(Either) -> T + Send + 'static,
) -> Response<Answers<T>> {
    Response::new(Box::pin(tokio_stream::iter(
        events.into_iter().map(move |event| event.map(&wrap)),
    )))
}

#[tonic::async_trait]
impl NodeService for Answering {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse {
            node: "node-a".into(),
            version: "0.1.0".into(),
            store: "s3://bucket/prefix".into(),
            criu_version: "4.2.1".into(),
            started_at: moment(0),
            workloads: 2,
            upload_bytes_per_second: 100 << 20,
            rates: Some(Rates {
                link_bytes_per_second: Some(110 << 20),
                link_age: Some(duration(4000)),
                link_bytes_per_second_min: Some(90 << 20),
                threads: 1.5,
                codecs: vec![
                    CodecCost {
                        codec: "lz4".into(),
                        ratio: 0.5,
                        bytes_per_second: 700 << 20,
                        measured: true,
                    },
                    CodecCost {
                        codec: "zstd-6".into(),
                        ratio: 0.3,
                        bytes_per_second: 100 << 20,
                        measured: false,
                    },
                ],
            }),
            notice: Some(Notice {
                source: "gce".into(),
                kind: NoticeKind::Preemption.into(),
                deadline: moment(90),
                sources: vec!["gce".into(), "file".into()],
            }),
            notice_sources: vec![
                NoticeSource {
                    name: "gce".into(),
                    target: "http://169.254.169.254".into(),
                    succeeded_at: moment(60),
                    failed_at: moment(30),
                    failure: "the answer 503".into(),
                },
                NoticeSource {
                    name: "logind".into(),
                    target: "unix:path=/run/dbus/system_bus_socket".into(),
                    succeeded_at: None,
                    failed_at: moment(60),
                    failure: "no answer".into(),
                },
            ],
            drill: Some(DrillSummary {
                ended_at: moment(30),
                rehearsed: 2,
                not_saved: vec!["job-7".into()],
                least_margin: Some(duration(18_400)),
                least_margin_of: "cache".into(),
            }),
            warm: vec![WarmCheckpoint {
                workload: "cache".into(),
                checkpoint: SECOND.into(),
                warm_bytes: 12 << 20,
                total_bytes: 16 << 20,
            }],
        }))
    }

    async fn give_notice(
        &self,
        request: Request<GiveNoticeRequest>,
    ) -> Result<Response<GiveNoticeResponse>, Status> {
        let request = request.into_inner();
        let said = request.budget.and_then(|budget| budget.within);
        let within = said.unwrap_or_else(|| duration(25_000));
        Ok(Response::new(GiveNoticeResponse {
            within: (!request.withdraw).then_some(within),
        }))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let capability =
            |name: &str, area: &str, state: CapabilityState, remedy: &str| Capability {
                name: name.into(),
                area: area.into(),
                state: state.into(),
                found: format!("{name} was looked at"),
                remedy: remedy.into(),
            };
        let missing = CapabilityState::Missing;
        Ok(Response::new(CheckResponse {
            capabilities: vec![
                capability("pagemap-scan", "kernel", CapabilityState::Ok, ""),
                capability(
                    "uffd-wp",
                    "kernel",
                    CapabilityState::Degraded,
                    "use kernel 6.7",
                ),
                capability("compare-and-set", "store", missing, "use another store"),
            ],
        }))
    }
}

#[tonic::async_trait]
impl WorkloadService for Answering {
    type WatchStream = Answers<WatchResponse>;
    type EvacuateStream = Answers<EvacuateResponse>;
    type CheckpointStream = Answers<CheckpointResponse>;
    type DrillStream = Answers<DrillResponse>;

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let request = request.into_inner();
        if request.pid == 1 {
            return Err(Status::permission_denied("process 1 is not yours"));
        }
        let workload = Workload {
            name: request.name,
            pid: request.pid,
            state: WorkloadState::Running.into(),
            tcp: request.tcp,
            argv: request.preserve,
            ..Workload::default()
        };
        Ok(Response::new(AttachResponse {
            workload: Some(workload),
        }))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse {
            workloads: vec![cache(), job()],
        }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let name = request.into_inner().name;
        if name != "cache" {
            return Err(Status::not_found(format!(
                "there is no workload {name:?} here"
            )));
        }
        let process = Process {
            pid: 4321,
            inner_pid: 2,
            name: "redis-server".into(),
            threads: 5,
            resident_bytes: 1 << 30,
            tracking: "uffd-wp".into(),
        };
        let blocker = Blocker {
            kind: "io-uring".into(),
            pid: 4321,
            detail: "turn io_uring off (--io-uring no)".into(),
            fatal: true,
        };
        Ok(Response::new(GetResponse {
            workload: Some(cache()),
            blockers: vec![blocker],
            processes: vec![process],
        }))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn evacuate(
        &self,
        request: Request<EvacuateRequest>,
    ) -> Result<Response<Self::EvacuateStream>, Status> {
        let request = request.into_inner();
        let within = request.budget.and_then(|budget| budget.within);
        if within.is_some_and(|within| Duration::try_from(within).unwrap() < SHORTEST) {
            return Err(Status::deadline_exceeded("nothing can be saved in no time"));
        }
        Ok(stream(self.events(request.selection), |event| {
            EvacuateResponse {
                event: Some(match event {
                    Either::Progress(progress) => evacuate_response::Event::Progress(progress),
                    Either::Result(result) => evacuate_response::Event::Result(result),
                }),
            }
        }))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<Self::CheckpointStream>, Status> {
        let events = self.events(request.into_inner().selection);
        Ok(stream(events, |event| CheckpointResponse {
            event: Some(match event {
                Either::Progress(progress) => checkpoint_response::Event::Progress(progress),
                Either::Result(result) => checkpoint_response::Event::Result(result),
            }),
        }))
    }

    async fn drill(
        &self,
        request: Request<DrillRequest>,
    ) -> Result<Response<Self::DrillStream>, Status> {
        let events = self.events(request.into_inner().selection);
        Ok(stream(events, |event| DrillResponse {
            event: Some(match event {
                Either::Progress(progress) => drill_response::Event::Progress(progress),
                Either::Result(result) => drill_response::Event::Result(result),
            }),
        }))
    }
}

/// Budgets below this are refused.
const SHORTEST: Duration = Duration::from_millis(10);

#[tonic::async_trait]
impl CheckpointService for Answering {
    type VerifyStream = Answers<VerifyResponse>;
    type PrefetchStream = Answers<PrefetchResponse>;

    async fn list(
        &self,
        request: Request<CheckpointServiceListRequest>,
    ) -> Result<Response<CheckpointServiceListResponse>, Status> {
        let workload = request.into_inner().workload;
        let entry = |workload: &str, id: &str, latest| CheckpointEntry {
            workload: workload.into(),
            checkpoint: Some(summary(id)),
            latest,
        };
        let all = [entry("cache", SECOND, true), entry("cache", FIRST, false)];
        let asked = |entry: &CheckpointEntry| workload.is_empty() || entry.workload == workload;
        let checkpoints = all.into_iter().filter(asked).collect();
        Ok(Response::new(CheckpointServiceListResponse { checkpoints }))
    }

    async fn inspect(
        &self,
        request: Request<InspectRequest>,
    ) -> Result<Response<InspectResponse>, Status> {
        let name = request.into_inner().name.unwrap();
        let id = if name.checkpoint.is_empty() {
            SECOND.into()
        } else {
            name.checkpoint
        };
        Ok(Response::new(InspectResponse {
            checkpoint: Some(summary(&id)),
            workload: name.workload,
            argv: vec!["redis-server".into()],
            uid: 1000,
            node: "node-a".into(),
            architecture: "x86_64".into(),
            criu_version: "4.2.1".into(),
            kernel_release: "6.12.0".into(),
            packs: vec![PackEntry {
                key: "packs/ab/abcd".into(),
                size_bytes: 16 << 20,
            }],
            address_spaces: vec![AddressSpaceEntry {
                pid: 2,
                pages: 4096,
                runs: 12,
            }],
            image_files: vec![ImageFileEntry {
                name: "core-2.img".into(),
                size_bytes: 1500,
            }],
            stored_bytes: 16 << 20,
            raw_bytes: 48 << 20,
            frames: 96,
            file_bytes: 2048,
            codecs: vec![codec_use("zstd")],
        }))
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let name = request.into_inner().name.unwrap();
        let step = |checked_bytes, fault: &str, done| {
            Ok(VerifyResponse {
                checked_bytes,
                total_bytes: 2048,
                fault: fault.into(),
                done,
            })
        };
        let fault = if name.workload == "damaged" {
            "packs/ab/abcd: wrong digest at byte 12"
        } else {
            ""
        };
        let steps = vec![step(1024, fault, false), step(2048, "", true)];
        Ok(Response::new(Box::pin(tokio_stream::iter(steps))))
    }

    async fn prefetch(
        &self,
        request: Request<PrefetchRequest>,
    ) -> Result<Response<Self::PrefetchStream>, Status> {
        let name = request.into_inner().name.unwrap();
        let room = if name.workload == "large" { 12 } else { 16 };
        let step = |mebibytes: u64, done| {
            Ok(PrefetchResponse {
                checkpoint: SECOND.into(),
                warm_bytes: mebibytes << 20,
                total_bytes: 16 << 20,
                fetched_bytes: (mebibytes - 4) << 20,
                done,
            })
        };
        let steps = vec![step(8, false), step(room, true)];
        Ok(Response::new(Box::pin(tokio_stream::iter(steps))))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let request = request.into_inner();
        let latest = request.name.unwrap().checkpoint == SECOND;
        if latest && !request.force {
            return Err(Status::failed_precondition(
                "cache can still be restored from it",
            ));
        }
        Ok(Response::new(DeleteResponse {}))
    }

    async fn collect_garbage(
        &self,
        _: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        Ok(Response::new(CollectGarbageResponse {
            objects: 3,
            bytes: 48 << 20,
        }))
    }
}
