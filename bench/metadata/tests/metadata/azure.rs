//! Azure's.

use super::gce::Server;

const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const HEADER: &str = "Metadata: true\r\n";

#[tokio::test]
async fn requests_without_header_or_version_or_through_a_proxy_are_refused() {
    let server = Server::start().await;
    let status =
        async |path: &str, headers: &str| server.send("GET", path, headers, "").await.status;
    assert_eq!(status(EVENTS, "").await, 400);
    assert_eq!(status("/metadata/scheduledevents", HEADER).await, 400);
    let proxied = format!("{HEADER}X-Forwarded-For: 1.2.3.4\r\n");
    assert_eq!(status(EVENTS, &proxied).await, 400);
    assert_eq!(status(EVENTS, HEADER).await, 200);
}

#[tokio::test]
async fn an_approved_event_has_started_and_the_document_has_changed() {
    let server = Server::start().await;
    let list = async || server.send("GET", EVENTS, HEADER, "").await.body;
    assert!(list().await.contains(r#""DocumentIncarnation":1"#));
    assert_eq!(server.set("azure/event", "Preempt 30").await, 200);
    let scheduled = list().await;
    assert!(
        scheduled.contains(r#""DocumentIncarnation":2"#),
        "{scheduled}"
    );
    assert!(
        scheduled.contains(r#""EventStatus":"Scheduled""#),
        "{scheduled}"
    );
    let (_, id) = scheduled.split_once(r#""EventId":""#).unwrap();
    let (id, _) = id.split_once('"').unwrap();
    let approve = |id: &str| format!(r#"{{"StartRequests": [{{"EventId": "{id}"}}]}}"#);
    let wrong = server
        .send("POST", EVENTS, HEADER, &approve("nothing"))
        .await;
    assert_eq!(wrong.status, 400);
    assert_eq!(
        server
            .send("POST", EVENTS, HEADER, &approve(id))
            .await
            .status,
        200
    );
    let started = list().await;
    assert!(started.contains(r#""EventStatus":"Started""#), "{started}");
    assert!(started.contains(r#""NotBefore":"""#), "{started}");
    let approved = server.send("GET", "/control/azure/approved", "", "").await;
    assert_eq!(approved.body, id);
}
