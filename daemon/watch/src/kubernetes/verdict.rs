//! What an object of the cluster says about the future. Pure.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::{
    clock,
    notice::{Confidence, Kind, Scope, Sighting, Source},
};

/// Most sightings of one object.
const SIGHTINGS_MAX: usize = 32;

/// Time that a pod has when its specification does not say: the default of Kubernetes.
const GRACE: Duration = Duration::from_secs(30);

/// Longest grace period that is believed.
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Taints that say what will become of a node, with who sets them.
const TAINTS: &[(&str, Kind, Confidence)] = &[
    // AWS Node Termination Handler.
    (
        "aws-node-termination-handler/spot-itn",
        Kind::Preemption,
        Confidence::Likely,
    ),
    (
        "aws-node-termination-handler/asg-lifecycle-termination",
        Kind::Preemption,
        Confidence::Likely,
    ),
    (
        "aws-node-termination-handler/scheduled-maintenance",
        Kind::Maintenance,
        Confidence::Likely,
    ),
    (
        "aws-node-termination-handler/rebalance-recommendation",
        Kind::Early,
        Confidence::Hint,
    ),
    // GKE.
    (
        "cloud.google.com/impending-node-termination",
        Kind::Preemption,
        Confidence::Likely,
    ),
    // Karpenter, and its name before version 1.
    (
        "karpenter.sh/disrupted",
        Kind::Preemption,
        Confidence::Likely,
    ),
    (
        "karpenter.sh/disruption",
        Kind::Preemption,
        Confidence::Likely,
    ),
    // Cluster Autoscaler.
    (
        "ToBeDeletedByClusterAutoscaler",
        Kind::Preemption,
        Confidence::Likely,
    ),
    (
        "DeletionCandidateOfClusterAutoscaler",
        Kind::Early,
        Confidence::Hint,
    ),
    // The cloud's node controller, and a cordon.
    (
        "node.cloudprovider.kubernetes.io/shutdown",
        Kind::Preemption,
        Confidence::Likely,
    ),
    (
        "node.kubernetes.io/unschedulable",
        Kind::Early,
        Confidence::Hint,
    ),
];

/// Conditions that AKS makes of Azure's scheduled events.
const CONDITIONS: &[(&str, Kind)] = &[
    ("PreemptScheduled", Kind::Preemption),
    ("TerminateScheduled", Kind::Preemption),
    ("RebootScheduled", Kind::Maintenance),
    ("RedeployScheduled", Kind::Maintenance),
    ("FreezeScheduled", Kind::Early),
];

/// What is known of the server's clock: its time, and when that was.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerClock {
    /// The server's time of day, once.
    pub(super) wall: SystemTime,
    /// When that was, here.
    pub(super) at: Instant,
}

impl ServerClock {
    fn now(&self) -> SystemTime {
        self.wall
            .checked_add(self.at.elapsed())
            .unwrap_or(self.wall)
    }
}

/// What every object has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) deletion_grace_period_seconds: Option<i64>,
}

/// A node, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
    spec: NodeSpec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Taint {
    key: String,
    value: String,
    time_added: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
    last_transition_time: Option<String>,
}

/// A pod, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    spec: PodSpec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    termination_grace_period_seconds: Option<i64>,
}

/// What a node says. `notice` is how long the machine stays, where nobody says.
pub(super) fn node(node: &Node, notice: Duration) -> Vec<Sighting> {
    let name = &node.metadata.name;
    let mut sightings = Vec::new();
    let mut add = |what: &str, kind: Kind, confidence, began: Option<SystemTime>| {
        let sighting = Sighting::new(Source::Kubernetes, &format!("node/{name}/{what}"))
            .kind(kind)
            .confidence(confidence)
            .began_at(began);
        sightings.push(if kind.ends_programs() {
            sighting.within(notice)
        } else {
            sighting
        });
    };
    if let Some(deleted) = &node.metadata.deletion_timestamp {
        let began = clock::parse(deleted);
        add("deleted", Kind::Preemption, Confidence::Likely, began);
    }
    for taint in &node.spec.taints {
        let known = TAINTS.iter().find(|(key, ..)| *key == taint.key);
        if let Some((key, kind, confidence)) = known {
            add(key, *kind, *confidence, taint.began());
        }
    }
    let is_tainted = |key| node.spec.taints.iter().any(|taint| taint.key == key);
    if node.spec.unschedulable && !is_tainted("node.kubernetes.io/unschedulable") {
        add("cordoned", Kind::Early, Confidence::Hint, None);
    }
    for condition in &node.status.conditions {
        // The words of the kubelet's graceful shutdown.
        if condition.kind == "Ready"
            && condition.status != "True"
            && condition.message.contains("shutting down")
        {
            let began = condition.began();
            add("shutdown", Kind::Preemption, Confidence::Likely, began);
        }
        let known = CONDITIONS.iter().find(|(kind, _)| *kind == condition.kind);
        if let (Some((name, kind)), "True") = (known, &*condition.status) {
            add(name, *kind, Confidence::Likely, condition.began());
        }
    }
    sightings.truncate(SIGHTINGS_MAX);
    sightings
}

/// The own node has been deleted from the cluster: the machine follows.
pub(super) fn node_is_gone(notice: Duration) -> Sighting {
    Sighting::new(Source::Kubernetes, "node/gone")
        .confidence(Confidence::Likely)
        .within(notice)
}

/// What a pod says, if the cluster evicts it.
pub(super) fn pod(pod: &Pod, clock: ServerClock) -> Option<Sighting> {
    let Pod {
        metadata,
        spec,
        status,
    } = pod;
    let is_target = |one: &&Condition| one.kind == "DisruptionTarget" && one.status == "True";
    let target = status.conditions.iter().find(is_target)?;
    if matches!(&*status.phase, "Succeeded" | "Failed") || metadata.uid.is_empty() {
        return None;
    }
    // The time of a deletion is that at which the grace period is over.
    let killed_at = metadata
        .deletion_timestamp
        .as_deref()
        .and_then(clock::parse);
    let grace = metadata
        .deletion_grace_period_seconds
        .or(spec.termination_grace_period_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(GRACE, Duration::from_secs)
        .min(GRACE_MAX);
    let within = killed_at.map_or(grace, |at| clock::remaining(at, clock.now()));
    let confidence = match killed_at {
        Some(_) => Confidence::Certain,
        None => Confidence::Likely,
    };
    let scope = Scope::Pod {
        uid: metadata.uid.clone(),
    };
    let key = format!("pod/{}", metadata.uid);
    let sighting = Sighting::new(Source::Kubernetes, &key).scope(scope);
    let sighting = sighting.within(within).confidence(confidence);
    Some(sighting.began_at(target.began()))
}

impl Taint {
    /// When it was set. The autoscaler writes that into the value, in seconds since 1970.
    fn began(&self) -> Option<SystemTime> {
        if let Some(added) = &self.time_added {
            return clock::parse(added);
        }
        let is_autoscaler = self.key.ends_with("ByClusterAutoscaler");
        let seconds = self.value.parse().ok().filter(|_| is_autoscaler)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}

impl Condition {
    fn began(&self) -> Option<SystemTime> {
        self.last_transition_time.as_deref().and_then(clock::parse)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOTICE: Duration = Duration::from_secs(25);

    fn pause(text: &str) -> ServerClock {
        ServerClock {
            wall: clock::parse(text).unwrap(),
            at: Instant::now(),
        }
    }

    fn judge(value: serde_json::Value) -> Vec<(String, Kind, Confidence, bool)> {
        let object: Node = serde_json::from_value(value).unwrap();
        let found = node(&object, NOTICE);
        let told = |one: Sighting| (one.key, one.kind, one.confidence, one.deadline.is_some());
        found.into_iter().map(told).collect()
    }

    #[test]
    fn every_known_taint_is_understood_and_no_other() {
        for (key, kind, confidence) in TAINTS {
            let spec = json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
            let value = json!({"metadata": {"name": "n"}, "spec": spec});
            let want = (
                format!("node/n/{key}"),
                *kind,
                *confidence,
                kind.ends_programs(),
            );
            assert_eq!(judge(value), [want]);
        }
        for key in [
            "nvidia.com/gpu",
            "node.kubernetes.io/disk-pressure",
            "",
            "ToBeDeleted",
        ] {
            let value = json!({"spec": {"taints": [{"key": key}]}});
            assert_eq!(judge(value), [], "{key}");
        }
    }

    #[test]
    fn a_deleted_node_goes_and_a_cordoned_one_may() {
        let value = json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(judge(value)[0].1, Kind::Preemption);
        let cordon = json!({"key": "node.kubernetes.io/unschedulable"});
        for taints in [json!([]), json!([cordon])] {
            let value = json!({"spec": {"unschedulable": true, "taints": taints}});
            let found = judge(value);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].1, Kind::Early);
        }
    }

    #[test]
    fn conditions_of_scheduled_events_count_only_while_they_are_true() {
        for (name, kind) in CONDITIONS {
            let of = |status: &str| {
                judge(json!({"status": {"conditions": [{"type": name, "status": status}]}}))
            };
            assert_eq!(of("True")[0].1, *kind);
            assert_eq!(of("False"), []);
            assert_eq!(of("Unknown"), []);
        }
    }

    #[test]
    fn a_kubelet_that_shuts_down_says_so() {
        let ready = |status: &str, message: &str| {
            let ready = json!({"type": "Ready", "status": status, "message": message});
            judge(json!({"status": {"conditions": [ready]}})).len()
        };
        assert_eq!(ready("False", "node is shutting down"), 1);
        assert_eq!(ready("False", "container runtime is down"), 0);
        assert_eq!(ready("True", "kubelet is posting ready status"), 0);
    }

    #[test]
    fn the_autoscaler_says_when_it_decided() {
        let taint = json!({"key": "ToBeDeletedByClusterAutoscaler", "value": "1767225600"});
        let node_object: Node =
            serde_json::from_value(json!({"spec": {"taints": [taint]}})).unwrap();
        let found = node(&node_object, NOTICE);
        assert_eq!(found[0].began_at, clock::parse("2026-01-01T00:00:00Z"));
    }

    fn evicted(metadata: &serde_json::Value, phase: &str) -> Option<Sighting> {
        let conditions = json!([{"type": "DisruptionTarget", "status": "True",
                                 "lastTransitionTime": "2025-12-31T23:59:59Z"}]);
        let value = json!({"metadata": metadata, "spec": {"terminationGracePeriodSeconds": 60},
                           "status": {"phase": phase, "conditions": conditions}});
        pod(
            &serde_json::from_value(value).unwrap(),
            pause("2026-01-01T00:00:00Z"),
        )
    }

    fn left(sighting: &Sighting) -> u128 {
        let left = sighting.deadline.unwrap() - Instant::now();
        left.as_millis().div_ceil(1000)
    }

    #[test]
    fn an_evicted_pod_has_its_grace_period() {
        let deleted = json!({"uid": "u", "deletionTimestamp": "2026-01-01T00:00:40Z"});
        let found = evicted(&deleted, "Running").unwrap();
        assert_eq!(found.scope, Scope::Pod { uid: "u".into() });
        assert_eq!((left(&found), found.confidence), (40, Confidence::Certain));
        assert_eq!(found.began_at, clock::parse("2025-12-31T23:59:59Z"));
        let soon = evicted(&json!({"uid": "u"}), "Running").unwrap();
        assert_eq!((left(&soon), soon.confidence), (60, Confidence::Likely));
        assert_eq!(evicted(&json!({"uid": "u"}), "Succeeded"), None);
    }

    #[test]
    fn a_pod_that_its_owner_deletes_is_not_evicted() {
        let value = json!({"metadata": {"uid": "u", "deletionTimestamp": "2026-01-01T00:00:40Z"}});
        let object: Pod = serde_json::from_value(value).unwrap();
        assert_eq!(pod(&object, pause("2026-01-01T00:00:00Z")), None);
    }

    proptest! {
        #[test]
        fn strange_times_and_periods_are_bounded(at in ".{0,30}", grace in any::<i64>()) {
            let metadata = json!({"uid": "u", "deletionTimestamp": at,
                                  "deletionGracePeriodSeconds": grace});
            let found = evicted(&metadata, "Running").unwrap();
            prop_assert!(found.deadline.unwrap() <= Instant::now() + GRACE_MAX);
        }

        #[test]
        fn an_object_says_a_bounded_number_of_things(count in 0..200_usize) {
            let taint = json!({"key": "karpenter.sh/disrupted"});
            let value = json!({"spec": {"taints": vec![taint; count]}});
            prop_assert!(judge(value).len() <= SIGHTINGS_MAX);
        }
    }
}
