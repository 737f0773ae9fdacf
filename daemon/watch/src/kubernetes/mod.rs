//! Kubernetes: what is about to happen to the own node, and to the pods on it.
//!
//! - The node: taints by which termination handlers, autoscalers and clouds announce its end, its
//!   deletion, and the kubelet's own shutdown. A mere cordon is an early signal.
//! - Pods on it: eviction and deletion; each concerns that pod only ([`Scope::Pod`]).
//!
//! Both are listed and then watched from there; when a watch ends, or the server has forgotten its place,
//! they are listed again, and what is no longer there is withdrawn. Clouds tell the machine itself
//! earlier than they tell the cluster: this is for what only the cluster knows.
//!
//! Two requests and five fields do not need a client library: `kube` would add 170 packages for them. The
//! client is `reqwest`, which the object stores bring along; it uses no proxy, follows no redirect, and
//! trusts the cluster's authority only. Lines and lists are bounded.
//!
//! Source: "Kubernetes API Concepts", "Well-Known Labels, Annotations and Taints".

mod api;
mod objects;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde_json::Value;

pub(crate) use self::api::Cluster;
use self::api::{ApiError, Event};
use crate::{
    feed::Feed,
    notice::{Sighting, Source},
};

/// Pause after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Watches node and pods until the task is aborted.
pub(crate) async fn run(cluster: Cluster, notice: Duration, feed: Feed) {
    let node = format!(
        "/api/v1/nodes?fieldSelector=metadata.name%3D{}",
        cluster.node()
    );
    let pods = format!(
        "/api/v1/pods?fieldSelector=spec.nodeName%3D{}",
        cluster.node()
    );
    tokio::join!(
        follow(&cluster, &node, &feed, |object| objects::node(
            object, notice
        )),
        follow(&cluster, &pods, &feed, |object| objects::pod(
            object, notice
        )),
    );
}

async fn follow(
    cluster: &Cluster,
    path: &str,
    feed: &Feed,
    look: impl Fn(&Value) -> Vec<Sighting>,
) {
    let mut known = Known::default();
    loop {
        if let Err(error) = once(cluster, path, feed, &look, &mut known).await {
            feed.failure(Source::Kubernetes, &error);
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }
}

/// Lists, and watches until the watch ends.
async fn once(
    cluster: &Cluster,
    path: &str,
    feed: &Feed,
    look: impl Fn(&Value) -> Vec<Sighting>,
    known: &mut Known,
) -> Result<(), ApiError> {
    let (items, version) = cluster.list(path).await?;
    feed.success(Source::Kubernetes);
    let mut there = BTreeSet::new();
    for item in &items {
        there.insert(uid(item));
        known.update(uid(item), look(item), feed).await;
    }
    known.retain(&there, feed).await;
    let mut watch = cluster.watch(path, &version).await?;
    while let Some(event) = watch.next().await? {
        feed.success(Source::Kubernetes);
        match event {
            Event::Now(object) => known.update(uid(&object), look(&object), feed).await,
            Event::Deleted(object) => known.update(uid(&object), Vec::new(), feed).await,
            Event::Nothing => {}
        }
    }
    Ok(())
}

fn uid(object: &Value) -> String {
    let uid = object["metadata"]["uid"].as_str();
    uid.unwrap_or_default().to_owned()
}

/// What was seen, by object.
#[derive(Debug, Default)]
struct Known(HashMap<String, BTreeSet<String>>);

impl Known {
    async fn update(&mut self, uid: String, sightings: Vec<Sighting>, feed: &Feed) {
        let now: BTreeSet<String> = sightings.iter().map(|one| one.key.clone()).collect();
        for sighting in sightings {
            feed.seen(sighting).await;
        }
        let before = if now.is_empty() {
            self.0.remove(&uid)
        } else {
            self.0.insert(uid, now.clone())
        };
        for key in before.unwrap_or_default().difference(&now) {
            feed.gone(Source::Kubernetes, key).await;
        }
    }

    async fn retain(&mut self, there: &BTreeSet<String>, feed: &Feed) {
        let lost: Vec<String> = self
            .0
            .keys()
            .filter(|uid| !there.contains(*uid))
            .cloned()
            .collect();
        for uid in lost {
            self.update(uid, Vec::new(), feed).await;
        }
    }
}
