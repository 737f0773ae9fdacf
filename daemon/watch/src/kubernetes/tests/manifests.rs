//! What `deploy/kubernetes` asks a cluster for: whether the cluster would understand it, and whether the
//! daemon may do there what it does, and nothing else.

use std::{collections::BTreeSet, path::Path};

use k8s_openapi::{
    Metadata as _, Resource,
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Namespace, PodSpec, ResourceQuota, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    NODE_VARIABLE, Scene, node, pod,
    server::{ApiServer, Tls},
};

/// All documents of the folder but kustomize's own.
fn documents() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value = <Value as serde::Deserialize>::deserialize(document);
            all.push(value.unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        }
    }
    all
}

fn is_a<T: Resource>(document: &Value) -> bool {
    document["kind"] == T::KIND && document["apiVersion"] == T::API_VERSION
}

/// The only document of its type, as the cluster reads it; fails on a field that the type does not have.
fn one<T: Resource + Serialize + DeserializeOwned>() -> T {
    let mut of_type: Vec<Value> = documents().into_iter().filter(is_a::<T>).collect();
    assert_eq!(of_type.len(), 1, "{} in deploy/kubernetes", T::KIND);
    read(&of_type.remove(0))
}

fn read<T: Resource + Serialize + DeserializeOwned>(document: &Value) -> T {
    let typed: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("{}: {error}: {document}", T::KIND));
    let again = serde_json::to_value(&typed).unwrap();
    kept(T::KIND, document, &again);
    typed
}

/// Everything that is written is in what was read: a misspelt field would have been left out.
fn kept(place: &str, written: &Value, read: &Value) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                let place = format!("{place}.{name}");
                let read = read.get(name);
                kept(
                    &place,
                    value,
                    read.unwrap_or_else(|| panic!("{place} is not known")),
                );
            }
        }
        (Value::Array(written), Value::Array(read)) => {
            assert_eq!(written.len(), read.len(), "{place}");
            for (written, read) in written.iter().zip(read) {
                kept(place, written, read);
            }
        }
        _ => assert_eq!(written, read, "{place}"),
    }
}

#[test]
fn the_cluster_knows_every_kind_and_every_field() {
    for document in documents() {
        match document["kind"].as_str().unwrap() {
            "Kustomization" => {}
            "Namespace" => drop(read::<Namespace>(&document)),
            "ResourceQuota" => drop(read::<ResourceQuota>(&document)),
            "ServiceAccount" => drop(read::<ServiceAccount>(&document)),
            "ClusterRole" => drop(read::<ClusterRole>(&document)),
            "ClusterRoleBinding" => drop(read::<ClusterRoleBinding>(&document)),
            "ConfigMap" => drop(read::<ConfigMap>(&document)),
            "DaemonSet" => drop(read::<DaemonSet>(&document)),
            other => panic!("{other} is not checked"),
        }
    }
}

/// What the role allows, as verb and resource.
fn granted() -> BTreeSet<(String, String)> {
    let role: ClusterRole = one();
    let mut granted = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!(rule.api_groups, Some(vec![String::new()]), "the core group");
        for resource in rule.resources.unwrap() {
            for verb in &rule.verbs {
                granted.insert((verb.clone(), resource.clone()));
            }
        }
    }
    granted
}

#[tokio::test]
async fn the_role_allows_what_the_daemon_does_and_nothing_else() {
    let tls = Tls::new();
    let server = ApiServer::start(Some(&tls)).await;
    server.put("nodes", node("n", &[]));
    let scene = Scene::start(server).await;
    // All that it does: lists, watches, and lists again when the server has forgotten.
    scene.server.put("pods", pod("p", "n", false));
    scene.server.stop();
    scene.server.go_on();
    scene.server.watched(4).await;
    assert_eq!(scene.server.used(), granted());
}

#[test]
fn the_daemon_s_pod_is_what_the_code_relies_on() {
    let daemon: DaemonSet = one();
    let namespace = daemon.metadata().namespace.clone().unwrap();
    assert_eq!(
        one::<Namespace>().metadata().name.as_ref(),
        Some(&namespace)
    );
    let spec = daemon.spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(spec.selector.match_labels.unwrap(), labels);
    let pod: PodSpec = spec.template.spec.unwrap();
    // The account that the role is bound to.
    let binding: ClusterRoleBinding = one();
    let account: ServiceAccount = one();
    assert_eq!(pod.service_account_name, account.metadata().name);
    assert_eq!(
        binding.role_ref.name,
        one::<ClusterRole>().metadata().name.clone().unwrap()
    );
    let subject = &binding.subjects.unwrap()[0];
    assert_eq!(Some(&subject.name), account.metadata().name.as_ref());
    assert_eq!(subject.namespace, Some(namespace));
    assert_eq!((pod.host_pid, pod.host_network), (Some(true), Some(true)));
    assert_eq!(
        pod.priority_class_name.as_deref(),
        Some("system-node-critical")
    );
    // Every taint.
    let toleration = &pod.tolerations.unwrap()[0];
    assert_eq!(
        (&toleration.key, toleration.operator.as_deref()),
        (&None, Some("Exists"))
    );
    let [container] = &pod.containers[..] else {
        panic!("one container")
    };
    // What `Cluster::find` reads is the name that the cluster has for the node.
    let environment = container.env.as_ref().unwrap();
    let name = environment
        .iter()
        .find(|one| one.name == NODE_VARIABLE)
        .unwrap();
    let field = name
        .value_from
        .as_ref()
        .unwrap()
        .field_ref
        .as_ref()
        .unwrap();
    assert_eq!(field.field_path, "spec.nodeName");
    // Each mount has a volume.
    let volumes = pod.volumes.unwrap();
    for mount in container.volume_mounts.as_ref().unwrap() {
        assert!(
            volumes.iter().any(|one| one.name == mount.name),
            "{}",
            mount.name
        );
    }
    // Longer than the daemon may take to drain.
    assert!(pod.termination_grace_period_seconds.unwrap() >= 60);
}
