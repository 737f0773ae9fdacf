//! EC2: `spot/instance-action`, and the rebalance recommendation as an early signal.
//!
//! The second version of the metadata service wants a session token: it is fetched with a `PUT`, lives
//! [`TOKEN_SECONDS`], and is renewed [`TOKEN_RENEWAL`] before its end, or at once when the service
//! answers 401 (it forgets its tokens when an instance is stopped and started).
//!
//! Both values are 404 until they are set; nothing else means "no notice". There is no way to wait, so
//! they are asked for every second. With a hop limit of 1, the default, answers do not reach containers
//! that have a network namespace of their own.
//!
//! `hibernate` gives no warning: the machine begins at once. What is saved by then is saved.
//!
//! Source: "Spot Instance interruption notices", "EC2 instance rebalance recommendations" and "Use the
//! Instance Metadata Service", AWS.

use std::time::{Duration, Instant, SystemTime};

use http::{Method, StatusCode};
use serde::Deserialize;

use crate::{
    client::{Answer, Client, ClientError},
    clock,
    config::AwsConfig,
    feed::Feed,
    notice::{Confidence, Kind, Sighting, Source},
};

/// Where tokens come from.
const TOKEN_PATH: &str = "/latest/api/token";

/// What will happen to a spot instance.
const ACTION_PATH: &str = "/latest/meta-data/spot/instance-action";

/// The early signal.
const REBALANCE_PATH: &str = "/latest/meta-data/events/recommendations/rebalance";

/// How long a token is asked to live, in seconds; the service allows 21 600.
const TOKEN_SECONDS: u64 = 3600;

/// How long before its end a token is renewed.
const TOKEN_RENEWAL: Duration = Duration::from_secs(60);

/// Longest token, in bytes; real ones have 56.
const TOKEN_BYTES_MAX: usize = 1024;

/// Longest time for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long before the end a terminate or stop notice is given, at best.
const NOTICE: Duration = Duration::from_secs(120);

/// Watches both values until the task is aborted.
pub(crate) async fn run(client: Client, config: AwsConfig, feed: Feed) {
    let mut service = Service {
        client,
        token: None,
    };
    let mut action = Known::new(ACTION_PATH);
    let mut rebalance = Known::new(REBALANCE_PATH);
    let mut turns = tokio::time::interval(config.poll);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let result = async {
            action.look(&mut service, &feed, parse_action).await?;
            rebalance.look(&mut service, &feed, parse_rebalance).await
        };
        match result.await {
            Ok(()) => feed.success(Source::Aws),
            Err(error) => feed.failure(Source::Aws, &error),
        }
    }
}

/// The service, with a token for it.
#[derive(Debug)]
struct Service {
    client: Client,
    token: Option<(String, Instant)>,
}

impl Service {
    async fn get(&mut self, path: &str) -> Result<Answer, ClientError> {
        let answer = self.get_once(path).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // The service has forgotten the token.
        self.token = None;
        self.get_once(path).await
    }

    async fn get_once(&mut self, path: &str) -> Result<Answer, ClientError> {
        let token = self.token().await?;
        let headers = [("X-aws-ec2-metadata-token", &*token)];
        self.client.get(path, &headers, ANSWER_LIMIT).await
    }

    async fn token(&mut self) -> Result<String, ClientError> {
        let asked_at = Instant::now();
        if let Some((token, until)) = &self.token
            && asked_at < *until
        {
            return Ok(token.clone());
        }
        let seconds = TOKEN_SECONDS.to_string();
        let headers = [("X-aws-ec2-metadata-token-ttl-seconds", &*seconds)];
        let asked = self.client.send(
            Method::PUT,
            TOKEN_PATH,
            &headers,
            String::new(),
            ANSWER_LIMIT,
        );
        let answer = asked.await?;
        let token = answer.body.trim();
        let is_token = (1..=TOKEN_BYTES_MAX).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if answer.status != StatusCode::OK || !is_token {
            // What is in the body might be a token: it is not shown.
            let mut hidden = answer.clone();
            if answer.status == StatusCode::OK {
                hidden.body = "(not a token)".to_owned();
            }
            return Err(hidden.unexpected());
        }
        // The service says how long it lives, which may be less than was asked for.
        let lives = answer
            .header("x-aws-ec2-metadata-token-ttl-seconds")
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(TOKEN_SECONDS)
            .min(TOKEN_SECONDS);
        let lives = Duration::from_secs(lives);
        let until = asked_at + lives.saturating_sub(TOKEN_RENEWAL.min(lives / 2));
        self.token = Some((token.to_owned(), until));
        Ok(token.to_owned())
    }
}

/// What is known of a value.
#[derive(Debug)]
struct Known {
    path: &'static str,
    body: Option<String>,
}

impl Known {
    const fn new(path: &'static str) -> Self {
        Self { path, body: None }
    }

    async fn look(
        &mut self,
        service: &mut Service,
        feed: &Feed,
        parse: impl Fn(&str, SystemTime) -> Option<Sighting>,
    ) -> Result<(), ClientError> {
        let answer = service.get(self.path).await?;
        match answer.status {
            StatusCode::NOT_FOUND => {
                if self.body.take().is_some() {
                    feed.gone(Source::Aws, self.path).await;
                }
            }
            StatusCode::OK if self.body.as_ref() == Some(&answer.body) => {}
            StatusCode::OK => {
                let sighting = parse(&answer.body, answer.now());
                feed.seen(sighting.ok_or_else(|| answer.unexpected())?)
                    .await;
                self.body = Some(answer.body);
            }
            _ => return Err(answer.unexpected()),
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Action {
    action: String,
    time: String,
}

/// `{"action":"terminate","time":"2026-01-01T00:00:00Z"}`.
fn parse_action(body: &str, now: SystemTime) -> Option<Sighting> {
    let Action { action, time } = serde_json::from_str(body).ok()?;
    if !matches!(&*action, "terminate" | "stop" | "hibernate") {
        return None;
    }
    let at = clock::parse(&time)?;
    let began = at.checked_sub(NOTICE).filter(|_| action != "hibernate");
    let sighting = Sighting::new(Source::Aws, ACTION_PATH);
    Some(sighting.within(clock::remaining(at, now)).began_at(began))
}

#[derive(Debug, Deserialize)]
struct Rebalance {
    #[serde(rename = "noticeTime")]
    notice_time: String,
}

/// `{"noticeTime":"2026-01-01T00:00:00Z"}`.
fn parse_rebalance(body: &str, _now: SystemTime) -> Option<Sighting> {
    let Rebalance { notice_time } = serde_json::from_str(body).ok()?;
    let sighting = Sighting::new(Source::Aws, REBALANCE_PATH)
        .kind(Kind::Early)
        .confidence(Confidence::Hint);
    Some(sighting.began_at(Some(clock::parse(&notice_time)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left(body: &str) -> Option<u64> {
        let now = clock::parse("2026-01-01T00:00:00Z").unwrap();
        let sighting = parse_action(body, now)?;
        let left = sighting.deadline.unwrap() - Instant::now();
        Some(left.as_millis().div_ceil(1000).try_into().unwrap())
    }

    #[test]
    fn the_time_of_an_action_is_the_deadline() {
        let action =
            |action: &str, time: &str| left(&format!(r#"{{"action":"{action}","time":"{time}"}}"#));
        assert_eq!(action("terminate", "2026-01-01T00:02:00Z"), Some(120));
        assert_eq!(action("stop", "2026-01-01T00:01:59Z"), Some(119));
        // It has passed, and the machine is still there.
        assert_eq!(action("hibernate", "2025-12-31T23:00:00Z"), Some(5));
        // Nobody's clock is that far ahead.
        assert_eq!(action("stop", "9000-01-01T00:00:00Z"), Some(7 * 24 * 3600));
        assert_eq!(action("dance", "2026-01-01T00:02:00Z"), None);
        assert_eq!(action("terminate", "soon"), None);
    }

    #[test]
    fn a_recommendation_is_a_hint() {
        let now = SystemTime::now();
        let sighting = parse_rebalance(r#"{"noticeTime": "2020-10-27T08:22:00Z"}"#, now).unwrap();
        assert_eq!(
            (sighting.kind, sighting.confidence),
            (Kind::Early, Confidence::Hint)
        );
        assert_eq!(parse_rebalance("{}", now), None);
        assert_eq!(parse_rebalance("", now), None);
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body in ".{0,200}", time in ".{0,40}") {
            let now = SystemTime::now();
            let _ = parse_action(&body, now);
            let _ = parse_rebalance(&body, now);
            let text = serde_json::json!({"action": "stop", "time": time}).to_string();
            let _ = parse_action(&text, now);
        }
    }
}
