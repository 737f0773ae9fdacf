//! Kubernetes: an API server that is played, as far as lists and watches of nodes and pods go.

use std::{sync::Arc, time::Duration};

use lifeboat_metadata::Control;
use lifeboat_watch::{Confidence, Kind, Scope, Source};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::support::{Watched, nobody};

/// What the server has: one node, and pods.
#[derive(Clone, Debug)]
struct Objects {
    node: Value,
    pods: Vec<Value>,
    version: u64,
}

/// The server.
struct Server {
    objects: Arc<watch::Sender<Objects>>,
    address: String,
}

impl Server {
    async fn start() -> Self {
        let node = json!({"metadata": {"name": "n1", "uid": "node-1"}, "spec": {}, "status": {}});
        let objects = Arc::new(watch::Sender::new(Objects {
            node,
            pods: Vec::new(),
            version: 1,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&objects);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let objects = shared.subscribe();
                // A client that goes away is its own business.
                tokio::spawn(async move { drop(serve(stream, objects).await) });
            }
        });
        Self { objects, address }
    }

    fn change(&self, change: impl FnOnce(&mut Objects)) {
        self.objects.send_modify(|objects| {
            change(objects);
            objects.version += 1;
        });
    }

    fn watched(&self) -> Watched {
        let credentials = tempfile::tempdir().unwrap();
        std::fs::write(credentials.path().join("token"), "secret\n").unwrap();
        let mut config = nobody();
        config.kubernetes.node = Some("n1".into());
        config.kubernetes.endpoint = Some(self.address.clone());
        config.kubernetes.credentials = Some(credentials.keep());
        Watched::of(Control::default(), config)
    }
}

async fn serve(stream: TcpStream, mut objects: watch::Receiver<Objects>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut line, mut is_allowed) = (String::new(), false);
    stream.read_line(&mut line).await?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        is_allowed |= line.eq_ignore_ascii_case("authorization: Bearer secret\r\n");
        if line == "\r\n" {
            break;
        }
    }
    let is_pods = target.starts_with("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1");
    let is_node = target.starts_with("/api/v1/nodes?fieldSelector=metadata.name%3Dn1");
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
    if !is_allowed || !(is_pods || is_node) {
        return stream.write_all(head("403 Forbidden").as_bytes()).await;
    }
    stream.write_all(head("200 OK").as_bytes()).await?;
    let items = |objects: &Objects| match is_pods {
        true => objects.pods.clone(),
        false => vec![objects.node.clone()],
    };
    let (mut before, version) = {
        let now = objects.borrow_and_update();
        (items(&now), now.version)
    };
    if !target.contains("watch=true") {
        let list = json!({"metadata": {"resourceVersion": version.to_string()}, "items": before});
        return stream.write_all(list.to_string().as_bytes()).await;
    }
    if !target.ends_with(&format!("resourceVersion={version}")) {
        let gone = json!({"type": "ERROR", "object": {"code": 410}});
        return stream.write_all(format!("{gone}\n").as_bytes()).await;
    }
    while objects.changed().await.is_ok() {
        let now = items(&objects.borrow_and_update());
        for item in now.iter().filter(|item| !before.contains(item)) {
            let event = json!({"type": "MODIFIED", "object": item});
            stream.write_all(format!("{event}\n").as_bytes()).await?;
        }
        let uid = |item: &Value| item["metadata"]["uid"].clone();
        for item in before
            .iter()
            .filter(|old| !now.iter().any(|new| uid(new) == uid(old)))
        {
            let event = json!({"type": "DELETED", "object": item});
            stream.write_all(format!("{event}\n").as_bytes()).await?;
        }
        before = now;
    }
    Ok(())
}

fn taint(objects: &mut Objects, key: &str) {
    objects.node["spec"]["taints"] = json!([{"key": key, "effect": "NoSchedule"}]);
}

#[tokio::test]
async fn a_taint_that_announces_the_end_is_a_notice_until_it_is_removed() {
    let server = Server::start().await;
    let mut watched = server.watched();
    watched
        .board_shows(|all| {
            all.iter()
                .any(|one| one.source == Source::Kubernetes && one.works())
        })
        .await;
    server.change(|objects| taint(objects, "node.kubernetes.io/unschedulable"));
    let early = watched.given().await;
    assert_eq!(
        (early.kind, early.confidence),
        (Kind::Early, Confidence::Hint)
    );
    server.change(|objects| taint(objects, "node.kubernetes.io/memory-pressure"));
    watched.withdrawn().await;
    server.change(|objects| taint(objects, "cloud.google.com/impending-node-termination"));
    let notice = watched.given().await;
    assert_eq!(
        (notice.kind, notice.confidence),
        (Kind::Preemption, Confidence::Likely)
    );
    assert_eq!(notice.scope, Scope::Machine);
}

#[tokio::test]
async fn what_was_there_before_the_start_is_seen_and_an_eviction_is_about_its_pod_only() {
    let server = Server::start().await;
    let until =
        humantime::format_rfc3339_seconds(std::time::SystemTime::now() + Duration::from_secs(60));
    let metadata = json!({"uid": "p-1", "deletionTimestamp": until.to_string()});
    server.change(|objects| {
        let other = json!({"metadata": {"uid": "p-2"}, "status": {"phase": "Running"}});
        objects.pods = vec![json!({"metadata": metadata, "status": {}}), other];
    });
    let mut watched = server.watched();
    let notice = watched.given().await;
    assert_eq!(notice.scope, Scope::Pod { uid: "p-1".into() });
    watched.nothing().await;
    server.change(|objects| {
        let evicted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        objects.pods[1]["status"]["conditions"] = evicted;
    });
    assert_eq!(
        watched.given().await.scope,
        Scope::Pod { uid: "p-2".into() }
    );
    server.change(|objects| objects.pods.clear());
    let gone = [
        watched.withdrawn().await.scope,
        watched.withdrawn().await.scope,
    ];
    assert!(gone.contains(&notice.scope));
}

#[tokio::test]
async fn a_server_that_refuses_is_said_to() {
    let server = Server::start().await;
    let mut config = nobody();
    let credentials = tempfile::tempdir().unwrap();
    std::fs::write(credentials.path().join("token"), "wrong").unwrap();
    config.kubernetes.node = Some("n1".into());
    config.kubernetes.endpoint = Some(server.address.clone());
    config.kubernetes.credentials = Some(credentials.path().to_owned());
    let watched = Watched::of(Control::default(), config);
    watched
        .board_shows(|all| {
            all.iter()
                .filter_map(|one| one.failed.as_ref())
                .any(|(_, why)| why.contains("403; may the service account"))
        })
        .await;
}
