//! `lifeboat.v1.NodeService`.

use std::sync::Arc;

use lifeboat_proto::v1::{self, node_service_server::NodeService};
use tonic::{Request, Response, Status};

use super::{identity::Caller, view};
use crate::{check, daemon::Context, drill, watch};

/// The service.
#[derive(Debug)]
pub struct Node {
    context: Arc<Context>,
}

impl Node {
    /// The service over the daemon's parts.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl NodeService for Node {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let context = &self.context;
        let rate = context.metrics.upload_rate.get();
        let visible = context.registry.visible(&caller);
        let shown = context.warm.as_ref().map(|warm| warm.shown());
        let shown = shown.unwrap_or_default().into_iter();
        let shown = shown.filter(|one| caller.may_touch(one.uid));
        let warm = shown.map(|one| v1::WarmCheckpoint {
            workload: one.workload.to_string(),
            checkpoint: one.checkpoint.to_string(),
            warm_bytes: one.warm_bytes,
            total_bytes: one.total_bytes,
        });
        Ok(Response::new(v1::GetStatusResponse {
            node: context.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: context.store.describe(),
            criu_version: context.platform.criu_version.clone(),
            started_at: Some(context.started_at.into()),
            workloads: u32::try_from(visible.len()).unwrap_or(u32::MAX),
            drill: drill::summary(&visible),
            upload_bytes_per_second: u64::try_from(rate).unwrap_or(0),
            notice: context.notice(),
            notice_sources: watch::shown_sources(&context.sources),
            warm: warm.collect(),
            rates: Some(view::rates(&context.rates.snapshot())),
        }))
    }

    async fn give_notice(
        &self,
        request: Request<v1::GiveNoticeRequest>,
    ) -> Result<Response<v1::GiveNoticeResponse>, Status> {
        if Caller::of(&request)?.uid != 0 {
            return Err(Status::permission_denied("only root gives notice"));
        }
        let feed = self.context.feed.get();
        let feed = feed.ok_or_else(|| Status::unavailable("the daemon is starting"))?;
        let within = watch::by_call(feed, request.get_ref(), self.context.config.notice).await?;
        Ok(Response::new(v1::GiveNoticeResponse {
            within: within.and_then(view::duration),
        }))
    }

    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::CheckResponse>, Status> {
        Caller::of(&request)?;
        let capabilities = check::capabilities(&self.context.config).await;
        Ok(Response::new(v1::CheckResponse { capabilities }))
    }
}
