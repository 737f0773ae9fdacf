//! `notice`.

use std::time::Duration;

use lifeboat_client::Client;
use lifeboat_proto::v1::{Budget, GiveNoticeRequest, NoticeKind};

use super::{Failure, print};
use crate::{
    cli::{Notice, NoticeKind as Said, Output},
    render::duration,
    view::GivenView,
};

/// Longest time that is said; the daemon takes less.
const WITHIN_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Gives notice, or takes it back.
pub(super) async fn give(
    client: &mut Client,
    output: Output,
    notice: Notice,
) -> Result<u8, Failure> {
    let kind = match notice.kind {
        None => NoticeKind::Unspecified,
        Some(Said::Early) => NoticeKind::Early,
        Some(Said::Preemption) => NoticeKind::Preemption,
        Some(Said::Maintenance) => NoticeKind::Maintenance,
    };
    let within = notice.within.map(|within| within.min(WITHIN_MAX));
    let request = GiveNoticeRequest {
        kind: kind.into(),
        budget: within.map(|within| Budget {
            within: prost_types::Duration::try_from(within).ok(),
        }),
        withdraw: notice.withdraw,
        pod_uid: notice.pod.clone().unwrap_or_default(),
    };
    let response = client.give_notice(request).await?;
    let view = GivenView::new(kind, notice.pod, &response);
    print(output, &view, || {
        let what = match &view.pod {
            None => "this machine".to_owned(),
            Some(uid) => format!("pod {uid}"),
        };
        match view.within_ms {
            None => {
                format!("taken back: {what} stays, as far as this command has said otherwise\n")
            }
            Some(within) => {
                let (kind, within) = (view.kind.unwrap_or("notice"), duration(within));
                format!("{kind} of {what} in {within}; `lifeboat list` shows what comes of it\n")
            }
        }
    })?;
    Ok(0)
}
