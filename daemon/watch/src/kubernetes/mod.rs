//! Kubernetes: what the cluster says about the own node, and about pods on it.
//!
//! - The node: taints by which termination handlers and autoscalers say that it goes (a table in
//!   [`verdict`]), its deletion, conditions of Azure's scheduled events, and as a hint that it was
//!   cordoned.
//! - Pods: those that the cluster evicts (the condition `DisruptionTarget`, Kubernetes 1.26). A pod that
//!   is deleted without it is deleted by whoever owns it, and is none of our business: what is started
//!   in its place is not to go on where it was.
//!
//! Both are listed once and watched from there. What a list does not have any more is taken back. A
//! cluster that does not answer has not said anything.
//!
//! The cluster hears of a preemption later than the machine itself (2–10 s), so this is no substitute
//! for the cloud's metadata server; it is how drains and autoscalers are heard of.
//!
//! Source: "Efficient detection of changes", "Taints and Tolerations", "Pod disruption conditions",
//! "Accessing the Kubernetes API from a Pod", Kubernetes.

mod api;
mod verdict;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use self::{
    api::{Api, ApiError, Item, Kind as Resource, Step},
    verdict::ServerClock,
};
use crate::{
    config::KubernetesConfig,
    feed::Feed,
    notice::{Scope, Sighting, Source},
};

/// Where Kubernetes puts a pod's credentials.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Variable with the name of the own node, set in the pod's specification from `spec.nodeName`.
const NODE_VARIABLE: &str = "NODE_NAME";

/// Stands for the uid of a node that is not in the cluster any more.
const GONE: &str = "";

/// Pause after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// The cluster, and the own node in it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    node: String,
    endpoint: String,
    credentials: PathBuf,
}

impl Cluster {
    /// The cluster to ask; `None`: neither the configuration nor the environment names the own node.
    pub(crate) fn find(config: &KubernetesConfig) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let node = config.node.clone().or_else(|| variable(NODE_VARIABLE))?;
        let endpoint = config.endpoint.clone().or_else(|| {
            let host = variable("KUBERNETES_SERVICE_HOST")?;
            let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
            let is_v6 = host.contains(':');
            Some(if is_v6 {
                format!("https://[{host}]:{port}")
            } else {
                format!("https://{host}:{port}")
            })
        });
        let credentials = config.credentials.clone();
        Some(Self {
            node,
            endpoint: endpoint.unwrap_or_default(),
            credentials: credentials.unwrap_or_else(|| CREDENTIALS.into()),
        })
    }

    /// What is watched, for people.
    pub(crate) fn describe(&self) -> String {
        format!("node {} at {}", self.node, self.endpoint)
    }
}

/// Watches node and pods until the task is aborted.
pub(crate) async fn run(cluster: Cluster, notice: Duration, feed: Feed) {
    let follow = |resource| Follower::new(resource, &cluster, notice, &feed).follow();
    tokio::join!(follow(Resource::Node), follow(Resource::Pod));
}

/// Follows one kind of objects.
struct Follower<'a> {
    resource: Resource,
    cluster: &'a Cluster,
    notice: Duration,
    feed: &'a Feed,
    /// What was reported of each object, by its uid.
    reported: BTreeMap<String, Vec<Sighting>>,
    /// The own node was there once.
    was_there: bool,
}

impl<'a> Follower<'a> {
    const fn new(
        resource: Resource,
        cluster: &'a Cluster,
        notice: Duration,
        feed: &'a Feed,
    ) -> Self {
        Self {
            resource,
            cluster,
            notice,
            feed,
            reported: BTreeMap::new(),
            was_there: false,
        }
    }

    async fn follow(mut self) {
        loop {
            let ended = self.once().await;
            match ended {
                Ok(()) => {}
                Err(error) => {
                    self.feed.failure(Source::Kubernetes, &error);
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// A list, and what happens after it, until the server has forgotten where we were.
    async fn once(&mut self) -> Result<(), ApiError> {
        // Anew each time: credentials are renewed on disk.
        let Cluster {
            node,
            endpoint,
            credentials,
        } = self.cluster;
        let api = Api::open(endpoint, credentials)?;
        let list = api.list(self.resource, node).await?;
        self.feed.success(Source::Kubernetes);
        if self.resource == Resource::Node {
            match list.items.is_empty() {
                true if !self.was_there => {
                    return Err(ApiError::NoNode { node: node.clone() });
                }
                true => self.node_is_gone().await,
                false => self.was_there = true,
            }
        }
        for item in &list.items {
            self.judge(item, list.clock).await;
        }
        if self.resource == Resource::Pod || !list.items.is_empty() {
            let is_listed = |uid: &str| list.items.iter().any(|item| item.uid() == uid);
            self.forget(|uid| !is_listed(uid)).await;
        }
        let mut version = list.version;
        loop {
            let mut watch = api.watch(self.resource, node, &version).await?;
            loop {
                match watch.next().await? {
                    Step::Changed(item, clock) => self.judge(&item, clock).await,
                    Step::Deleted(item) => self.deleted(&item).await,
                    Step::Bookmark => {}
                    Step::Ended => break,
                    Step::Forgotten => return Ok(()),
                }
                self.feed.success(Source::Kubernetes);
                if let Some(newer) = watch.version() {
                    newer.clone_into(&mut version);
                }
            }
        }
    }

    async fn judge(&mut self, item: &Item, clock: ServerClock) {
        let sightings = match item {
            Item::Node(node) => verdict::node(node, self.notice),
            Item::Pod(pod) => verdict::pod(pod, clock).into_iter().collect(),
        };
        self.tell(item.uid(), sightings).await;
        if self.resource == Resource::Node {
            // There is only one at a time: what was said of its predecessor is past.
            self.forget(|uid| uid != item.uid()).await;
        }
    }

    async fn deleted(&mut self, item: &Item) {
        match item {
            Item::Node(_) => self.node_is_gone().await,
            // It has ended.
            Item::Pod(_) => self.tell(item.uid(), Vec::new()).await,
        }
    }

    /// The own node is not in the cluster any more: whatever was said of it stands.
    async fn node_is_gone(&mut self) {
        let sightings = vec![verdict::node_is_gone(self.notice)];
        self.tell(GONE, sightings).await;
    }

    /// Takes back what was said of some objects.
    async fn forget(&mut self, which: impl Fn(&str) -> bool) {
        let all = self.reported.keys().filter(|uid| which(uid));
        for uid in all.cloned().collect::<Vec<_>>() {
            self.tell(&uid, Vec::new()).await;
        }
    }

    /// Reports what is new of an object, and takes back what is not there any more.
    async fn tell(&mut self, uid: &str, sightings: Vec<Sighting>) {
        let before = self.reported.remove(uid).unwrap_or_default();
        let mut told: Vec<Sighting> = Vec::new();
        for new in sightings {
            match before
                .iter()
                .find(|old| old.key == new.key && is_same(old, &new))
            {
                // The deadline is that of the first time.
                Some(old) => told.push(old.clone()),
                None => {
                    self.feed.seen(new.clone()).await;
                    told.push(new);
                }
            }
        }
        // Last, so that one danger that follows another is not taken for a withdrawal.
        for old in &before {
            if !told.iter().any(|new| new.key == old.key) {
                self.feed.gone(Source::Kubernetes, &old.key).await;
            }
        }
        if !told.is_empty() {
            self.reported.insert(uid.to_owned(), told);
        }
    }
}

fn is_same(one: &Sighting, other: &Sighting) -> bool {
    let facts = |one: &Sighting| (one.kind, one.confidence, one.began_at);
    let scopes: [&Scope; 2] = [&one.scope, &other.scope];
    facts(one) == facts(other) && scopes[0] == scopes[1]
}

#[cfg(test)]
mod tests;
