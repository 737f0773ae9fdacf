//! EC2's metadata service, version 2.
//!
//! Behaves as documented in "Use the Instance Metadata Service" and "Spot Instance interruption notices"
//! (AWS):
//!
//! - `PUT /latest/api/token` with `X-aws-ec2-metadata-token-ttl-seconds` of 1 to 21600 gives a token;
//!   400 without it or beyond, 403 when there is an `X-Forwarded-For` header.
//! - Everything else without a valid `X-aws-ec2-metadata-token` is 401.
//! - `spot/instance-action` and `events/recommendations/rebalance` are 404 until they are set.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::{
    server::{Answer, Asked, plain, with},
    state::Control,
};

/// The header that says how long a token is to live.
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// The longest life of a token, in seconds.
const TTL_MAX: u64 = 21600;

pub(crate) fn answer(control: &Control, asked: &Asked) -> Answer {
    let mut answer = status_and_text(control, asked);
    with(&mut answer, "server", "EC2ws");
    answer
}

fn status_and_text(control: &Control, asked: &Asked) -> Answer {
    if control.0.borrow().unavailable {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "");
    }
    if asked.path == "/latest/api/token" {
        return token(control, asked);
    }
    let state = control.0.borrow();
    let token = asked.header("x-aws-ec2-metadata-token").unwrap_or("");
    let is_valid = state
        .tokens
        .get(token)
        .is_some_and(|until| Instant::now() < *until);
    if !is_valid {
        return plain(StatusCode::UNAUTHORIZED, "");
    }
    if asked.method != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    let value = match &*asked.path {
        "/latest/meta-data/spot/instance-action" => &state.instance_action,
        "/latest/meta-data/events/recommendations/rebalance" => &state.rebalance,
        _ => &None,
    };
    match value {
        Some(text) => plain(StatusCode::OK, text),
        None => plain(StatusCode::NOT_FOUND, "404 - Not Found"),
    }
}

fn token(control: &Control, asked: &Asked) -> Answer {
    if asked.method != Method::PUT {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    if asked.headers.contains_key("x-forwarded-for") {
        return plain(StatusCode::FORBIDDEN, "");
    }
    let seconds = asked.header(TTL).and_then(|text| text.parse().ok());
    let Some(seconds) = seconds.filter(|seconds| (1..=TTL_MAX).contains(seconds)) else {
        return plain(StatusCode::BAD_REQUEST, "");
    };
    let token = format!("AQAE{:032x}==", rand::random::<u128>());
    let now = Instant::now();
    control.0.send_modify(|state| {
        state.tokens.retain(|_, until| now < *until);
        state
            .tokens
            .insert(token.clone(), now + Duration::from_secs(seconds));
    });
    let mut answer = plain(StatusCode::OK, &token);
    with(&mut answer, TTL, &seconds.to_string());
    answer
}
