//! Who asks: the daemon's socket, its gRPC services, and the holds.

pub mod attach;
pub mod checkpoint;
pub mod hold;
pub mod identity;
pub mod node;
pub mod outcome;
pub mod renew;
pub mod socket;
pub mod status;
pub mod view;
pub mod workload;

use std::sync::Arc;

use lifeboat_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        checkpoint_service_server::CheckpointServiceServer, node_service_server::NodeServiceServer,
        workload_service_server::WorkloadServiceServer,
    },
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    service::Routes,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use self::{identity::Caller, socket::Incoming};
use crate::{
    config::Tls,
    daemon::{Context, StartError},
    observe::{chain, http},
};

/// The running services.
#[derive(Debug)]
pub struct Serving {
    grpc: Vec<JoinHandle<()>>,
    background: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Waits until the requests under way are done, after the drain has begun.
    pub async fn finished(self) {
        for task in self.grpc {
            // A panic of a server was logged by the runtime.
            drop(task.await);
        }
        for task in self.background {
            task.abort();
        }
    }
}

/// Starts to serve.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn serve(context: Arc<Context>, drain: CancellationToken) -> Result<Serving, StartError> {
    let config = &context.config;
    let listener = socket::listen(&config.socket, config.socket_group.as_deref()).await?;
    let Incoming { grpc, holds } = socket::accept(listener);
    let mut background = vec![tokio::spawn(hold::accept(holds, Arc::clone(&context)))];
    let routes = routes(&context, &drain).await;
    let local = Server::builder().add_routes(routes.clone());
    let incoming = ReceiverStream::new(grpc);
    let incoming = tokio_stream::StreamExt::map(incoming, Ok::<_, std::io::Error>);
    let signal = drain.clone().cancelled_owned();
    let mut servers = vec![tokio::spawn(async move {
        let served = local.serve_with_incoming_shutdown(incoming, signal).await;
        if let Err(error) = served {
            tracing::error!(error = chain(&error), "the socket's server failed");
        }
    })];
    if let Some(address) = config.listen {
        let listener = bind(address).await?;
        let tls = config.tls.as_ref().map(tls_config).transpose()?;
        servers.push(serve_tcp(listener, routes, tls, drain)?);
    }
    if let Some(address) = config.metrics_listen {
        let listener = bind(address).await?;
        background.push(tokio::spawn(http::serve(listener, Arc::clone(&context))));
    }
    Ok(Serving {
        grpc: servers,
        background,
    })
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen {
            address: address.to_string(),
            source,
        })
}

async fn routes(context: &Arc<Context>, drain: &CancellationToken) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<NodeServiceServer<node::Node>>().await;
    health
        .set_serving::<WorkloadServiceServer<workload::Workloads>>()
        .await;
    health
        .set_serving::<CheckpointServiceServer<checkpoint::Checkpoints>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the build checked the descriptors");
    let context = || Arc::clone(context);
    let workloads = workload::Workloads::new(context(), drain.clone());
    Routes::new(health_service)
        .add_service(reflection)
        .add_service(NodeServiceServer::new(node::Node::new(context())))
        .add_service(WorkloadServiceServer::new(workloads))
        .add_service(CheckpointServiceServer::new(checkpoint::Checkpoints::new(
            context(),
        )))
}

/// Serves callers over TCP: they have shown a client certificate, or come from this machine.
fn serve_tcp(
    listener: TcpListener,
    routes: Routes,
    tls: Option<ServerTlsConfig>,
    drain: CancellationToken,
) -> Result<JoinHandle<()>, StartError> {
    let mut builder = Server::builder();
    if let Some(tls) = tls {
        builder = builder.tls_config(tls).map_err(|error| StartError::Tls {
            reason: chain(&error),
        })?;
    }
    let layer = tonic::service::InterceptorLayer::new(
        |mut request: Request<()>| -> Result<Request<()>, Status> {
            request.extensions_mut().insert(Caller::operator());
            Ok(request)
        },
    );
    let server = builder.layer(layer).add_routes(routes);
    Ok(tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let served = server
            .serve_with_incoming_shutdown(incoming, drain.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(error = chain(&error), "the network server failed");
        }
    }))
}

fn tls_config(tls: &Tls) -> Result<ServerTlsConfig, StartError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| StartError::Tls {
            reason: format!("read {}: {error}", path.display()),
        })
    };
    let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
    let authority = Certificate::from_pem(read(&tls.client_authority)?);
    Ok(ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(authority))
}
