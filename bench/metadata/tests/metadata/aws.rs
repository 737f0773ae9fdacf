//! EC2's.

use super::gce::Server;

const ACTION: &str = "/latest/meta-data/spot/instance-action";
const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";

async fn token(server: &Server) -> String {
    let got = server.send("PUT", "/latest/api/token", TTL, "").await;
    assert_eq!(got.status, 200);
    assert_eq!(
        got.header("x-aws-ec2-metadata-token-ttl-seconds")
            .as_deref(),
        Some("60")
    );
    format!("X-aws-ec2-metadata-token: {}\r\n", got.body)
}

#[tokio::test]
async fn without_a_token_everything_is_refused_and_tokens_do_not_pass_proxies() {
    let server = Server::start().await;
    assert_eq!(server.send("GET", ACTION, "", "").await.status, 401);
    let path = "/latest/api/token";
    assert_eq!(server.send("GET", path, TTL, "").await.status, 405);
    assert_eq!(server.send("PUT", path, "", "").await.status, 400);
    let long = "X-aws-ec2-metadata-token-ttl-seconds: 21601\r\n";
    assert_eq!(server.send("PUT", path, long, "").await.status, 400);
    let proxied = format!("{TTL}X-Forwarded-For: 1.2.3.4\r\n");
    assert_eq!(server.send("PUT", path, &proxied, "").await.status, 403);
    let token = token(&server).await;
    assert_eq!(server.send("GET", ACTION, &token, "").await.status, 404);
    assert_eq!(server.set("aws/forget-tokens", "").await, 200);
    assert_eq!(server.send("GET", ACTION, &token, "").await.status, 401);
}

#[tokio::test]
async fn an_action_is_not_found_until_it_is_set() {
    let server = Server::start().await;
    let token = token(&server).await;
    assert_eq!(server.set("aws/instance-action", "terminate").await, 400);
    assert_eq!(
        server.set("aws/instance-action", "terminate 120").await,
        200
    );
    let got = server.send("GET", ACTION, &token, "").await;
    assert!(
        got.body.starts_with(r#"{"action":"terminate","time":"2"#),
        "{}",
        got.body
    );
    assert_eq!(server.set("aws/instance-action", "").await, 200);
    assert_eq!(server.send("GET", ACTION, &token, "").await.status, 404);
}
