//! The connection.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use lifeboat_proto::{
    id::WorkloadName,
    v1::{
        AttachRequest, Budget, CheckRequest, CheckResponse, CheckpointEntry, CheckpointName,
        CheckpointRequest, CheckpointServiceListRequest, CollectGarbageRequest,
        CollectGarbageResponse, DeleteRequest, DrillRequest, EvacuateRequest, GetRequest,
        GetResponse, GetStatusRequest, GetStatusResponse, GiveNoticeRequest, GiveNoticeResponse,
        InspectRequest, InspectResponse, ListRequest, PrefetchRequest, PrefetchResponse, Progress,
        SaveResult, Selection, TcpPolicy, VerifyRequest, VerifyResponse, WatchRequest,
        WatchResponse, Workload, checkpoint_response,
        checkpoint_service_client::CheckpointServiceClient, drill_response, evacuate_response,
        node_service_client::NodeServiceClient, workload_service_client::WorkloadServiceClient,
    },
};
use tokio::net::UnixStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    Endpoint,
    error::{ClientError, explain_connect},
};

/// How long a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Which workloads a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// These.
    Names(Vec<WorkloadName>),
    /// All that the caller may touch.
    All,
}

/// What happens while workloads are saved.
#[derive(Clone, Debug, PartialEq)]
pub enum SaveEvent {
    /// Something goes on.
    Progress(Progress),
    /// How it ended for one workload.
    Result(SaveResult),
}

/// Events until all outcomes are known.
pub type SaveStream = std::pin::Pin<Box<dyn Stream<Item = Result<SaveEvent, ClientError>> + Send>>;

/// A connection to a daemon. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    node: NodeServiceClient<Channel>,
    workloads: WorkloadServiceClient<Channel>,
    checkpoints: CheckpointServiceClient<Channel>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::is_unreachable`], with what to do about it.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let channel = match endpoint {
            Endpoint::Unix(path) => {
                let connector = tower::service_fn({
                    let path = path.clone();
                    move |_| {
                        let path = path.clone();
                        async move { UnixStream::connect(path).await.map(TokioIo::new) }
                    }
                });
                let transport =
                    Channel::from_static("http://lifeboat").connect_timeout(CONNECT_WAIT);
                let connected = transport.connect_with_connector(connector).await;
                connected.map_err(|error| {
                    ClientError::Socket(explain_connect(path, &kernel_answer(error)))
                })?
            }
            Endpoint::Http(url) => {
                let failed = |source| ClientError::Http {
                    url: url.clone(),
                    source,
                };
                let transport = Channel::from_shared(url.clone().into_bytes())
                    .map_err(|error| {
                        ClientError::Refused(Status::invalid_argument(format!(
                            "{url:?} is not the address of a daemon: {error}"
                        )))
                    })?
                    .connect_timeout(CONNECT_WAIT);
                transport.connect().await.map_err(failed)?
            }
        };
        Ok(Self {
            node: NodeServiceClient::new(channel.clone()),
            workloads: WorkloadServiceClient::new(channel.clone()),
            checkpoints: CheckpointServiceClient::new(channel),
        })
    }

    /// The node's status.
    ///
    /// # Errors
    /// When the daemon refuses or is gone, as with every call below.
    pub async fn node_status(&mut self) -> Result<GetStatusResponse, ClientError> {
        Ok(self
            .node
            .get_status(GetStatusRequest {})
            .await
            .map_err(refused)?
            .into_inner())
    }

    /// What the node can and cannot do.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn check(&mut self) -> Result<CheckResponse, ClientError> {
        Ok(self
            .node
            .check(CheckRequest {})
            .await
            .map_err(refused)?
            .into_inner())
    }

    /// Gives notice that the machine will go, or takes it back.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn give_notice(
        &mut self,
        request: GiveNoticeRequest,
    ) -> Result<GiveNoticeResponse, ClientError> {
        let response = self.node.give_notice(request).await.map_err(refused)?;
        Ok(response.into_inner())
    }

    /// Registers a running process tree.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn attach(
        &mut self,
        name: &WorkloadName,
        pid: u32,
        preserve: Vec<String>,
        tcp: TcpPolicy,
    ) -> Result<Workload, ClientError> {
        let request = AttachRequest {
            name: name.to_string(),
            pid,
            preserve,
            tcp: tcp.into(),
        };
        let response = self
            .workloads
            .attach(request)
            .await
            .map_err(refused)?
            .into_inner();
        response.workload.ok_or(ClientError::Incomplete("workload"))
    }

    /// The workloads that the caller may see.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn list(&mut self) -> Result<Vec<Workload>, ClientError> {
        Ok(self
            .workloads
            .list(ListRequest {})
            .await
            .map_err(refused)?
            .into_inner()
            .workloads)
    }

    /// All about one workload.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn get(&mut self, name: &WorkloadName) -> Result<GetResponse, ClientError> {
        let request = GetRequest {
            name: name.to_string(),
        };
        Ok(self
            .workloads
            .get(request)
            .await
            .map_err(refused)?
            .into_inner())
    }

    /// A workload's changes, beginning with its present state.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn watch(
        &mut self,
        name: &WorkloadName,
    ) -> Result<impl Stream<Item = Result<WatchResponse, ClientError>> + use<>, ClientError> {
        let request = WatchRequest {
            name: name.to_string(),
        };
        let stream = self
            .workloads
            .watch(request)
            .await
            .map_err(refused)?
            .into_inner();
        Ok(stream.map(|item| item.map_err(refused)))
    }

    /// Saves workloads and ends them here. `within`: time until everything must be durable.
    ///
    /// # Errors
    /// See [`Client::node_status`]. What fails for one workload is its result, not an error.
    pub async fn evacuate(
        &mut self,
        selected: &Selected,
        within: Option<Duration>,
    ) -> Result<SaveStream, ClientError> {
        let request = EvacuateRequest {
            selection: Some(selection(selected)),
            budget: budget(within),
        };
        let stream = self
            .workloads
            .evacuate(request)
            .await
            .map_err(refused)?
            .into_inner();
        Ok(events(stream, |response| {
            Some(match response.event? {
                evacuate_response::Event::Progress(progress) => SaveEvent::Progress(progress),
                evacuate_response::Event::Result(result) => SaveEvent::Result(result),
            })
        }))
    }

    /// Saves workloads and lets them run on.
    ///
    /// # Errors
    /// See [`Client::evacuate`].
    pub async fn checkpoint(
        &mut self,
        selected: &Selected,
        within: Option<Duration>,
    ) -> Result<SaveStream, ClientError> {
        let request = CheckpointRequest {
            selection: Some(selection(selected)),
            budget: budget(within),
        };
        let stream = self
            .workloads
            .checkpoint(request)
            .await
            .map_err(refused)?
            .into_inner();
        Ok(events(stream, |response| {
            Some(match response.event? {
                checkpoint_response::Event::Progress(progress) => SaveEvent::Progress(progress),
                checkpoint_response::Event::Result(result) => SaveEvent::Result(result),
            })
        }))
    }

    /// Rehearses an eviction.
    ///
    /// # Errors
    /// See [`Client::evacuate`].
    pub async fn drill(
        &mut self,
        selected: &Selected,
        within: Option<Duration>,
    ) -> Result<SaveStream, ClientError> {
        let request = DrillRequest {
            selection: Some(selection(selected)),
            budget: budget(within),
        };
        let stream = self
            .workloads
            .drill(request)
            .await
            .map_err(refused)?
            .into_inner();
        Ok(events(stream, |response| {
            Some(match response.event? {
                drill_response::Event::Progress(progress) => SaveEvent::Progress(progress),
                drill_response::Event::Result(result) => SaveEvent::Result(result),
            })
        }))
    }

    /// Checkpoints of one workload or of all, newest first.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn checkpoints(
        &mut self,
        workload: Option<&WorkloadName>,
    ) -> Result<Vec<CheckpointEntry>, ClientError> {
        let workload = workload.map(ToString::to_string).unwrap_or_default();
        let request = CheckpointServiceListRequest { workload };
        Ok(self
            .checkpoints
            .list(request)
            .await
            .map_err(refused)?
            .into_inner()
            .checkpoints)
    }

    /// What a checkpoint holds.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn inspect(&mut self, name: CheckpointName) -> Result<InspectResponse, ClientError> {
        let request = InspectRequest { name: Some(name) };
        Ok(self
            .checkpoints
            .inspect(request)
            .await
            .map_err(refused)?
            .into_inner())
    }

    /// Reads every byte of a checkpoint and checks it.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn verify(
        &mut self,
        name: CheckpointName,
    ) -> Result<impl Stream<Item = Result<VerifyResponse, ClientError>> + use<>, ClientError> {
        let request = VerifyRequest { name: Some(name) };
        let stream = self
            .checkpoints
            .verify(request)
            .await
            .map_err(refused)?
            .into_inner();
        Ok(stream.map(|item| item.map_err(refused)))
    }

    /// Brings a checkpoint onto the daemon's node; progress as it comes.
    ///
    /// # Errors
    /// See [`Client::node_status`]; in the stream, when a pack cannot be had.
    pub async fn prefetch(
        &mut self,
        name: CheckpointName,
    ) -> Result<impl Stream<Item = Result<PrefetchResponse, ClientError>> + use<>, ClientError>
    {
        let request = PrefetchRequest { name: Some(name) };
        let stream = self
            .checkpoints
            .prefetch(request)
            .await
            .map_err(refused)?
            .into_inner();
        Ok(stream.map(|item| item.map_err(refused)))
    }

    /// Deletes a checkpoint.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn delete(&mut self, name: CheckpointName, force: bool) -> Result<(), ClientError> {
        let request = DeleteRequest {
            name: Some(name),
            force,
        };
        self.checkpoints.delete(request).await.map_err(refused)?;
        Ok(())
    }

    /// Deletes what no manifest names, or tells what would be deleted.
    ///
    /// # Errors
    /// See [`Client::node_status`].
    pub async fn collect_garbage(
        &mut self,
        dry_run: bool,
    ) -> Result<CollectGarbageResponse, ClientError> {
        let request = CollectGarbageRequest { dry_run };
        Ok(self
            .checkpoints
            .collect_garbage(request)
            .await
            .map_err(refused)?
            .into_inner())
    }
}

/// The events of a stream of responses; responses of a newer daemon that this client does not know
/// are left out.
fn events<T: Send + 'static>(
    stream: Streaming<T>,
    event: impl Fn(T) -> Option<SaveEvent> + Send + 'static,
) -> SaveStream {
    Box::pin(stream.filter_map(move |item| match item {
        Ok(response) => event(response).map(Ok),
        Err(status) => Some(Err(refused(status))),
    }))
}

/// What the kernel said, which the transport wraps more than once.
fn kernel_answer(error: tonic::transport::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(code) = inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return io::Error::from_raw_os_error(code);
        }
        cause = inner.source();
    }
    io::Error::other(error)
}

fn refused(status: Status) -> ClientError {
    ClientError::Refused(status)
}

fn selection(selected: &Selected) -> Selection {
    match selected {
        Selected::Names(names) => Selection {
            names: names.iter().map(ToString::to_string).collect(),
            all: false,
        },
        Selected::All => Selection {
            names: Vec::new(),
            all: true,
        },
    }
}

fn budget(within: Option<Duration>) -> Option<Budget> {
    let within = within?;
    // Longer than the clock can say is no deadline.
    let within = prost_types::Duration::try_from(within).ok()?;
    Some(Budget {
        within: Some(within),
    })
}
