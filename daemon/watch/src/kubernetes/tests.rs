//! Against an emulated API server: lists, watches, bookmarks, lost connections, forgotten versions.

use std::{collections::BTreeMap, sync::Mutex, time::Instant};

use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use super::*;
use crate::{
    board::Board,
    feed::Report,
    notice::{Confidence, Kind},
};

mod manifests;
mod server;

use server::{ApiServer, Tls};

/// Longest time for anything here.
const SOON: Duration = Duration::from_secs(10);

const NOTICE: Duration = Duration::from_secs(25);

/// The watcher of node `n`, and what it reports.
struct Scene {
    server: ApiServer,
    reports: mpsc::Receiver<Report>,
    board: Board,
    task: JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    async fn start(server: ApiServer) -> Self {
        let board = Board::default();
        board.add(Source::Kubernetes, String::new());
        let (feed, reports) = Feed::new(board.clone());
        let cluster = Cluster {
            node: "n".into(),
            endpoint: server.endpoint().to_owned(),
            credentials: server.credentials().to_owned(),
        };
        let task = tokio::spawn(run(cluster, NOTICE, feed));
        let scene = Self {
            server,
            reports,
            board,
            task,
        };
        scene.server.watched(2).await;
        scene
    }

    async fn next(&mut self) -> Report {
        let next = tokio::time::timeout(SOON, self.reports.recv()).await;
        next.expect("something is reported").expect("it runs")
    }

    async fn seen(&mut self) -> Sighting {
        match self.next().await {
            Report::Seen(sighting) => sighting,
            Report::Gone(_, key) => panic!("{key} is gone"),
        }
    }

    async fn gone(&mut self) -> String {
        match self.next().await {
            Report::Gone(_, key) => key,
            Report::Seen(sighting) => panic!("{sighting:?}"),
        }
    }

    fn nothing(&mut self) {
        assert!(self.reports.try_recv().is_err());
    }
}

fn node(name: &str, taints: &[&str]) -> Value {
    let taints: Vec<Value> = taints.iter().map(|key| json!({"key": key})).collect();
    json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"taints": taints}})
}

fn pod(uid: &str, on: &str, evicted: bool) -> Value {
    let status = if evicted { "True" } else { "False" };
    json!({"metadata": {"name": uid, "uid": uid}, "spec": {"nodeName": on},
           "status": {"phase": "Running",
                      "conditions": [{"type": "DisruptionTarget", "status": status}]}})
}

const SPOT: &str = "aws-node-termination-handler/spot-itn";

async fn plain() -> Scene {
    let server = ApiServer::start(None).await;
    server.put("nodes", node("n", &[]));
    Scene::start(server).await
}

#[tokio::test]
async fn a_taint_of_the_own_node_is_seen_and_taken_back_and_others_are_not() {
    let mut scene = plain().await;
    scene.server.put("nodes", node("other", &[SPOT]));
    scene.server.put("nodes", node("n", &["example.com/gpu"]));
    scene.server.put("nodes", node("n", &[SPOT]));
    let seen = scene.seen().await;
    assert_eq!(
        (seen.kind, seen.confidence),
        (Kind::Preemption, Confidence::Likely)
    );
    assert_eq!(seen.scope, Scope::Machine);
    let left = seen.deadline.unwrap() - Instant::now();
    assert!(left <= NOTICE && left > NOTICE / 2, "{left:?}");
    // Other changes of the node say nothing new, and do not move the deadline.
    scene
        .server
        .put("nodes", node("n", &[SPOT, "example.com/gpu"]));
    scene.server.put("nodes", node("n", &[]));
    assert_eq!(scene.gone().await, seen.key);
    scene.nothing();
}

#[tokio::test]
async fn a_taint_that_was_there_before_is_seen() {
    let server = ApiServer::start(None).await;
    server.put("nodes", node("n", &["ToBeDeletedByClusterAutoscaler"]));
    let mut scene = Scene::start(server).await;
    assert_eq!(scene.seen().await.kind, Kind::Preemption);
}

#[tokio::test]
async fn a_deleted_node_goes() {
    let mut scene = plain().await;
    scene.server.delete("nodes", "n");
    let seen = scene.seen().await;
    assert_eq!((seen.kind, &*seen.key), (Kind::Preemption, "node/gone"));
    // It is registered anew, under the same name.
    let mut again = node("n", &[]);
    again["metadata"]["uid"] = "another".into();
    scene.server.put("nodes", again);
    assert_eq!(scene.gone().await, "node/gone");
}

#[tokio::test]
async fn a_tainted_node_that_is_deleted_is_not_safe_again() {
    let mut scene = plain().await;
    scene
        .server
        .put("nodes", node("n", &["karpenter.sh/disrupted"]));
    assert_eq!(scene.seen().await.key, "node/n/karpenter.sh/disrupted");
    scene.server.delete("nodes", "n");
    assert_eq!(scene.seen().await.key, "node/gone");
    // The next list does not have it either.
    scene.server.stop();
    scene.server.go_on();
    scene.server.watched(4).await;
    scene.nothing();
}

#[tokio::test]
async fn an_evicted_pod_is_seen_until_it_has_ended() {
    let mut scene = plain().await;
    scene.server.put("pods", pod("a", "n", false));
    scene.server.put("pods", pod("b", "other", true));
    scene.server.put("pods", pod("a", "n", true));
    let seen = scene.seen().await;
    assert_eq!(seen.scope, Scope::Pod { uid: "a".into() });
    scene.server.delete("pods", "a");
    assert_eq!(scene.gone().await, "pod/a");
    scene.nothing();
}

#[tokio::test]
async fn what_happened_while_the_server_was_away_is_seen_afterwards() {
    let mut scene = plain().await;
    scene.server.put("nodes", node("n", &[SPOT]));
    let seen = scene.seen().await;
    scene.server.stop();
    scene
        .server
        .put("nodes", node("n", &["karpenter.sh/disrupted"]));
    scene.server.put("pods", pod("a", "n", true));
    scene.server.go_on();
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(match scene.next().await {
            Report::Gone(_, key) => format!("-{key}"),
            Report::Seen(sighting) => format!("+{}", sighting.key),
        });
    }
    keys.sort();
    let gone = format!("-{}", seen.key);
    assert_eq!(keys, ["+node/n/karpenter.sh/disrupted", "+pod/a", &gone]);
    // An error has taken nothing back.
    scene.nothing();
}

#[tokio::test]
async fn a_version_that_the_server_has_forgotten_begins_a_new_list() {
    let mut scene = plain().await;
    scene.server.put("nodes", node("n", &[SPOT]));
    scene.seen().await;
    scene.server.forget_with_the_node(node("n", &[]));
    scene.gone().await;
    scene.server.put("nodes", node("n", &[SPOT]));
    assert_eq!(scene.seen().await.kind, Kind::Preemption);
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let mut scene = plain().await;
    for round in 0..5 {
        scene.server.put("nodes", node("n", &[SPOT]));
        scene.seen().await;
        if round % 2 == 0 {
            scene.server.end_watches();
        } else {
            scene.server.bookmark();
        }
        scene.server.put("nodes", node("n", &[]));
        scene.gone().await;
    }
    assert_eq!(scene.server.lists(), 2, "one of nodes, one of pods");
    scene.nothing();
}

#[tokio::test]
async fn a_node_that_the_cluster_does_not_have_is_an_error_that_says_what_to_do() {
    let server = ApiServer::start(None).await;
    server.put("nodes", node("other", &[SPOT]));
    let board = Board::default();
    board.add(Source::Kubernetes, String::new());
    let (feed, _reports) = Feed::new(board.clone());
    let cluster = Cluster {
        node: "n".into(),
        endpoint: server.endpoint().to_owned(),
        credentials: PathBuf::new(),
    };
    let error = Follower::new(Resource::Node, &cluster, NOTICE, &feed)
        .once()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("NODE_NAME"), "{error}");
}

#[tokio::test]
async fn answers_that_are_none_are_errors_and_say_nothing() {
    let mut scene = plain().await;
    for nonsense in [
        "",
        "<html>",
        "{}",
        "[]",
        "{\"metadata\":{},\"items\":{}}",
        "null",
    ] {
        scene.server.answer_lists_with(Some(nonsense));
        scene.server.forget();
        scene.server.asked_again().await;
    }
    scene.nothing();
    assert!(scene.board.sources()[0].failed.is_some());
    scene.server.answer_lists_with(None);
    scene.server.put("nodes", node("n", &[SPOT]));
    assert_eq!(scene.seen().await.kind, Kind::Preemption);
}

#[tokio::test]
async fn the_token_is_sent_over_tls_to_the_clusters_own_authority_only() {
    let tls = Tls::new();
    let server = ApiServer::start(Some(&tls)).await;
    server.put("nodes", node("n", &[SPOT]));
    let mut scene = Scene::start(server).await;
    assert_eq!(scene.seen().await.kind, Kind::Preemption);
    // It is read anew for each request.
    scene.server.renew_token("another");
    scene.server.forget_with_the_node(node("n", &[]));
    scene.gone().await;

    // Another authority in the folder: the server is not who it should be.
    let stranger = Tls::new();
    let error = Api::open(scene.server.endpoint(), stranger.folder())
        .unwrap()
        .list(Resource::Node, "n")
        .await
        .unwrap_err();
    assert!(matches!(error, ApiError::Request { .. }), "{error:?}");
}

#[tokio::test]
async fn a_wrong_address_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for endpoint in ["", "10.0.0.1:443", "http://10.0.0.1", "ftp://x"] {
        let error = Api::open(endpoint, folder.path()).unwrap_err();
        assert!(error.to_string().contains("[watch.kubernetes]"), "{error}");
    }
    let error = Api::open("https://10.0.0.1", folder.path()).unwrap_err();
    assert!(matches!(error, ApiError::Credential { .. }), "{error}");
}
