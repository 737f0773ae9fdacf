//! What a node or a pod says about its end. Pure functions; whatever is not understood says nothing.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::{
    clock,
    notice::{Confidence, Kind, Scope, Sighting, Source},
};

/// Most taints of a node, and conditions of an object, that are looked at.
const LIST_MAX: usize = 128;

/// Taints by which the end of a node is announced: prefix of the key, and what it means.
const TAINTS: &[(&str, Kind)] = &[
    // GKE, and the termination handlers of GCE
    (
        "cloud.google.com/impending-node-termination",
        Kind::Preemption,
    ),
    // AWS Node Termination Handler
    ("aws-node-termination-handler/spot-itn", Kind::Preemption),
    (
        "aws-node-termination-handler/asg-lifecycle-termination",
        Kind::Preemption,
    ),
    (
        "aws-node-termination-handler/scheduled-maintenance",
        Kind::Maintenance,
    ),
    (
        "aws-node-termination-handler/rebalance-recommendation",
        Kind::Early,
    ),
    // Karpenter
    ("karpenter.sh/disrupted", Kind::Maintenance),
    ("karpenter.sh/disruption", Kind::Maintenance),
    // Cluster Autoscaler
    ("ToBeDeletedByClusterAutoscaler", Kind::Maintenance),
    ("DeletionCandidateOfClusterAutoscaler", Kind::Early),
    // Cloud controllers
    (
        "node.cloudprovider.kubernetes.io/shutdown",
        Kind::Preemption,
    ),
    // `kubectl cordon`, the first step of every drain
    ("node.kubernetes.io/unschedulable", Kind::Early),
];

/// What a node says; `notice` is how long it stays when it does not say.
pub(crate) fn node(object: &Value, notice: Duration) -> Vec<Sighting> {
    let mut all = Vec::new();
    let sighting = |key: &str, kind: Kind, began: &Value| {
        let confidence = if kind == Kind::Early {
            Confidence::Hint
        } else {
            Confidence::Likely
        };
        Sighting::new(Source::Kubernetes, &format!("node {key}"))
            .kind(kind)
            .within(notice)
            .confidence(confidence)
            .began_at(began.as_str().and_then(clock::parse))
    };
    for taint in list(&object["spec"]["taints"]) {
        let key = taint["key"].as_str().unwrap_or_default();
        if let Some((_, kind)) = TAINTS.iter().find(|(known, _)| key == *known) {
            all.push(sighting(key, *kind, &taint["timeAdded"]));
        }
    }
    let deleted = &object["metadata"]["deletionTimestamp"];
    if deleted.is_string() {
        all.push(sighting("deletion", Kind::Preemption, deleted));
    }
    for condition in list(&object["status"]["conditions"]) {
        let is_ready = condition["type"] == "Ready" && condition["status"] != "True";
        // The words of the kubelet's graceful shutdown.
        if is_ready
            && condition["message"]
                .as_str()
                .is_some_and(|text| text.contains("shutting down"))
        {
            all.push(sighting(
                "shutdown",
                Kind::Preemption,
                &condition["lastTransitionTime"],
            ));
        }
    }
    all
}

/// What a pod says.
pub(crate) fn pod(object: &Value, notice: Duration) -> Vec<Sighting> {
    let Some(uid) = object["metadata"]["uid"].as_str() else {
        return Vec::new();
    };
    let phase = object["status"]["phase"].as_str();
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let scope = Scope::Pod {
        uid: uid.to_owned(),
    };
    let sighting = |why: &str| {
        Sighting::new(Source::Kubernetes, &format!("pod {uid} {why}"))
            .kind(Kind::Maintenance)
            .scope(scope.clone())
    };
    let mut all = Vec::new();
    // The end of its grace period, not the beginning.
    let until = object["metadata"]["deletionTimestamp"].as_str();
    if let Some(until) = until.and_then(clock::parse) {
        let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64();
        let began = grace.and_then(|grace| until.checked_sub(Duration::from_secs(grace)));
        let within = clock::remaining(until, SystemTime::now());
        all.push(sighting("deletion").within(within).began_at(began));
    }
    for condition in list(&object["status"]["conditions"]) {
        if condition["type"] == "DisruptionTarget" && condition["status"] == "True" {
            let began = condition["lastTransitionTime"]
                .as_str()
                .and_then(clock::parse);
            all.push(sighting("disruption").within(notice).began_at(began));
        }
    }
    all
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(LIST_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOTICE: Duration = Duration::from_secs(25);

    #[test]
    fn taints_that_are_known_announce_the_end() {
        let tainted = |key: &str| {
            let all = node(
                &json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}}),
                NOTICE,
            );
            all.first().map(|one| one.kind)
        };
        let gke = "cloud.google.com/impending-node-termination";
        assert_eq!(tainted(gke), Some(Kind::Preemption));
        assert_eq!(tainted("karpenter.sh/disrupted"), Some(Kind::Maintenance));
        assert_eq!(
            tainted("node.kubernetes.io/unschedulable"),
            Some(Kind::Early)
        );
        // It says what kind of node it is, for all its life.
        assert_eq!(tainted("kubernetes.azure.com/scalesetpriority"), None);
        assert_eq!(tainted("node.kubernetes.io/memory-pressure"), None);
    }

    #[test]
    fn strange_objects_say_nothing() {
        for strange in [
            json!(null),
            json!([]),
            json!({"spec": {"taints": "all"}, "status": {"conditions": {"type": 1}}}),
            json!({"metadata": {"uid": 7, "deletionTimestamp": 1}}),
            json!({"metadata": {"uid": "u", "deletionTimestamp": "soon"}}),
        ] {
            assert_eq!(node(&strange, NOTICE), []);
            assert_eq!(pod(&strange, NOTICE), []);
        }
    }

    #[test]
    fn the_grace_of_a_pod_is_its_deadline() {
        let until = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(60));
        let object = json!({"metadata": {"uid": "u", "deletionTimestamp": until.to_string(),
            "deletionGracePeriodSeconds": 60}});
        let all = pod(&object, NOTICE);
        let left = all[0].deadline.unwrap() - std::time::Instant::now();
        assert!((58..=60).contains(&left.as_secs()), "{left:?}");
        assert_eq!(all[0].scope, Scope::Pod { uid: "u".into() });
    }
}
