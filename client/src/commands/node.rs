//! `status` without a name, and `check`.

use lifeboat_client::Client;

use super::{EXIT_FAILED, Failure, print};
use crate::{
    cli::Output,
    render::{Table, duration, or_dash, pairs, size},
    view::{CapabilityView, DrillSummaryView, NodeView, NoticeSourceView, RatesView},
};

/// Shows the node.
pub(super) async fn status(client: &mut Client, output: Output) -> Result<u8, Failure> {
    let view = NodeView::from(client.node_status().await?);
    print(output, &view, || {
        let rate = match view.upload_bytes_per_second {
            0 => "nothing uploaded yet".to_owned(),
            rate => format!("{}/s", size(rate)),
        };
        let notice = match &view.notice {
            None => "none".to_owned(),
            Some(notice) => {
                let deadline = or_dash(notice.deadline.clone());
                format!(
                    "{} from {}, deadline {deadline}",
                    notice.kind, notice.source
                )
            }
        };
        let warm = view.warm.iter().map(|one| {
            let (warm, total) = (size(one.warm_bytes), size(one.total_bytes));
            format!("{} ({warm} of {total})", one.workload)
        });
        let warm: Vec<String> = warm.collect();
        pairs(&[
            ("node", view.node.clone()),
            ("daemon", view.version.clone()),
            ("criu", view.criu_version.clone()),
            ("store", view.store.clone()),
            ("running since", or_dash(view.started_at.clone())),
            ("workloads", view.workloads.to_string()),
            ("upload rate", rate),
            ("link", link(&view.rates)),
            ("codecs", codecs(&view.rates)),
            ("notice", notice),
            ("watched", watched(&view)),
            ("last drill", or_dash(view.drill.as_ref().map(drilled))),
            (
                "prefetched",
                or_dash(Some(warm.join(", ")).filter(|all| !all.is_empty())),
            ),
        ])
    })?;
    Ok(0)
}

/// What the link carries, as far as that is known.
fn link(rates: &RatesView) -> String {
    let per_second = |rate| format!("{}/s", size(rate));
    match (rates.link_bytes_per_second, rates.link_bytes_per_second_min) {
        (Some(rate), _) => {
            let age = rates
                .link_age_ms
                .map(|age| format!(", {} ago", duration(age)));
            format!("{}{}", per_second(rate), age.unwrap_or_default())
        }
        (None, Some(least)) => format!("at least {}; never the limit", per_second(least)),
        (None, None) => "not known yet".to_owned(),
    }
}

/// What codecs gain and cost, as far as that was measured.
fn codecs(rates: &RatesView) -> String {
    let measured = rates.codecs.iter().filter(|one| one.measured);
    let all: Vec<String> = measured
        .map(|one| {
            let (percent, rate) = (one.ratio * 100.0, size(one.bytes_per_second));
            format!("{} {percent:.0} % at {rate}/s", one.codec)
        })
        .collect();
    or_dash(Some(all.join(", ")).filter(|all| !all.is_empty()))
}

/// How the last rehearsals went.
fn drilled(drill: &DrillSummaryView) -> String {
    let at = or_dash(drill.ended_at.clone());
    let outcome = match &*drill.not_saved {
        [] => format!("all {} would have been saved", drill.rehearsed),
        these => format!(
            "{} of {} would not have been saved: {}",
            these.len(),
            drill.rehearsed,
            these.join(", ")
        ),
    };
    match (drill.least_margin_ms, &drill.least_margin_of) {
        (Some(margin), Some(of)) => {
            format!("{at}: {outcome}; least margin {} ({of})", duration(margin))
        }
        _ => format!("{at}: {outcome}"),
    }
}

/// Who is asked whether the machine will go, and who of them does not answer.
fn watched(view: &NodeView) -> String {
    let one = |source: &NoticeSourceView| match &source.failure {
        _ if source.works => source.name.clone(),
        Some(failure) => format!("{} (fails: {failure})", source.name),
        None => format!("{} (no answer yet)", source.name),
    };
    let all: Vec<String> = view.notice_sources.iter().map(one).collect();
    or_dash(Some(all.join(", ")).filter(|all| !all.is_empty()))
}

/// Checks the node. What is missing is a failure; what is merely degraded is not.
pub(super) async fn check(client: &mut Client, output: Output) -> Result<u8, Failure> {
    let capabilities = client.check().await?.capabilities;
    let views: Vec<CapabilityView> = capabilities.into_iter().map(Into::into).collect();
    print(output, &views, || {
        let mut table = Table::new(&["AREA", "CAPABILITY", "STATE", "FOUND", "WHAT TO DO"]);
        for view in &views {
            table.row([
                view.area.clone(),
                view.name.clone(),
                view.state.to_owned(),
                view.found.clone(),
                view.remedy.clone().unwrap_or_default(),
            ]);
        }
        table.render()
    })?;
    let missing = views.iter().any(|view| view.state == "missing");
    Ok(if missing { EXIT_FAILED } else { 0 })
}
