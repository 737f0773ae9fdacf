//! EC2: `spot/instance-action`, and the rebalance recommendation as an early signal.
//!
//! The second version of the metadata service wants a session token: it is fetched with a `PUT`, lives
//! [`TOKEN_SECONDS`], and is renewed [`TOKEN_RENEWAL`] before its end, or at once when the service
//! answers 401 (it forgets its tokens when an instance is stopped and started).
//!
//! Both values are 404 until they are set; nothing else means "no notice". What was set is taken back when
//! it is 404 [`GONE_AFTER`] times in a row: a single one may be the service's own fault, and taking a
//! notice back stops saves. An action that is not known, or has no time, is a notice nevertheless; what is
//! no action at all (a portal that answers everything) is an error. There is no way to wait, so they are
//! asked for every second. With a hop limit of 1, the default, answers do not reach containers
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

/// How often in a row something that was set must be missing until it is taken back.
const GONE_AFTER: u32 = 3;

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
    missing: u32,
}

impl Known {
    const fn new(path: &'static str) -> Self {
        Self {
            path,
            body: None,
            missing: 0,
        }
    }

    /// Notes that it is not there; tells whether what was there is to be taken back.
    fn is_gone(&mut self) -> bool {
        self.missing = self.missing.saturating_add(1);
        self.missing >= GONE_AFTER && self.body.take().is_some()
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
                if self.is_gone() {
                    feed.gone(Source::Aws, self.path).await;
                }
            }
            StatusCode::OK if self.body.as_ref() == Some(&answer.body) => self.missing = 0,
            StatusCode::OK => {
                self.missing = 0;
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
    #[serde(default)]
    time: String,
}

/// `{"action":"terminate","time":"2026-01-01T00:00:00Z"}`. An action that is not known,
/// or without a time, is less sure. None is longer ahead than [`NOTICE`].
fn parse_action(body: &str, now: SystemTime) -> Option<Sighting> {
    let Action { action, time } = serde_json::from_str(body).ok()?;
    let sighting = Sighting::new(Source::Aws, ACTION_PATH);
    let sighting = match &*action {
        "terminate" | "stop" | "hibernate" => sighting,
        _ => sighting.confidence(Confidence::Likely),
    };
    let Some(at) = clock::parse(&time) else {
        return Some(sighting.within(NOTICE).confidence(Confidence::Likely));
    };
    let began = at.checked_sub(NOTICE).filter(|_| action != "hibernate");
    let within = clock::remaining(at, now).min(NOTICE);
    Some(sighting.within(within).began_at(began))
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
        // It is never said that long ahead.
        assert_eq!(action("stop", "9000-01-01T00:00:00Z"), Some(120));
    }

    #[test]
    fn an_action_is_a_notice_even_if_it_is_not_known_and_anything_else_is_not() {
        let now = clock::parse("2026-01-01T00:00:00Z").unwrap();
        for (body, want) in [
            (r#"{"action":"dance","time":"2026-01-01T00:01:00Z"}"#, 60),
            (r#"{"action":"terminate","time":"soon"}"#, 120),
            (r#"{"action":""}"#, 120),
        ] {
            assert_eq!(left(body), Some(want), "{body}");
            let sighting = parse_action(body, now).unwrap();
            assert_eq!(sighting.kind, Kind::Preemption);
            assert_eq!(sighting.confidence, Confidence::Likely, "{body}");
        }
        for body in [r#"{"action":7}"#, "{}", "TRUE", "<html>", ""] {
            assert_eq!(parse_action(body, now), None, "{body}");
        }
    }

    #[test]
    fn what_was_there_is_gone_only_when_it_stays_away() {
        let mut known = Known::new(ACTION_PATH);
        assert!((0..5).all(|_| !known.is_gone()), "it never was there");
        known.body = Some("x".into());
        known.missing = 0;
        let gone: Vec<bool> = (0..5).map(|_| known.is_gone()).collect();
        assert_eq!(gone, [false, false, true, false, false]);
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
            let action = parse_action(&text, now).unwrap();
            prop_assert!(action.deadline.unwrap() <= Instant::now() + NOTICE);
        }
    }
}
