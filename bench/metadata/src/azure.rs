//! Azure's metadata service: Scheduled Events, and the name of the machine.
//!
//! Behaves as documented in "Scheduled Events for Linux VMs" and "Azure Instance Metadata Service"
//! (Microsoft):
//!
//! - Without `Metadata: true`, without an `api-version`, and with `X-Forwarded-For`: 400.
//! - The first call of Scheduled Events turns the service on and takes its time.
//! - `DocumentIncarnation` grows with each change of the list.
//! - An event past its `NotBefore`, or approved by `StartRequests`, is `Started` and has no `NotBefore`.

use std::time::SystemTime;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::{
    server::{Answer, Asked, plain, with},
    state::{AZURE_NAME, Control, State},
};

pub(crate) async fn answer(control: &Control, asked: &Asked) -> Answer {
    if control.0.borrow().unavailable {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "");
    }
    if asked.header("metadata") != Some("true") || asked.headers.contains_key("x-forwarded-for") {
        let text = r#"{"error": "Bad request. Required metadata header not specified"}"#;
        return plain(StatusCode::BAD_REQUEST, text);
    }
    if asked.path == "/metadata/versions" {
        return plain(
            StatusCode::OK,
            r#"{"apiVersions": ["2020-07-01", "2021-02-01"]}"#,
        );
    }
    if asked.parameter("api-version").is_none() {
        let text = r#"{"error": "Bad request. api-version was not specified in the request"}"#;
        return plain(StatusCode::BAD_REQUEST, text);
    }
    match &*asked.path {
        "/metadata/instance/compute/name" => plain(StatusCode::OK, AZURE_NAME),
        "/metadata/scheduledevents" => events(control, asked).await,
        _ => plain(StatusCode::NOT_FOUND, ""),
    }
}

async fn events(control: &Control, asked: &Asked) -> Answer {
    match asked.method {
        Method::GET => {}
        Method::POST => return approve(control, &asked.body),
        _ => return plain(StatusCode::METHOD_NOT_ALLOWED, ""),
    }
    let (was_called, delay) = {
        let state = control.0.borrow();
        (state.was_called, state.first_call_delay)
    };
    if !was_called {
        tokio::time::sleep(delay).await;
    }
    let mut text = String::new();
    control.0.send_modify(|state| {
        state.was_called = true;
        start_those_that_are_due(state);
        text = list(state);
    });
    let mut answer = plain(StatusCode::OK, &text);
    with(
        &mut answer,
        "content-type",
        "application/json; charset=utf-8",
    );
    answer
}

fn start_those_that_are_due(state: &mut State) {
    let now = SystemTime::now();
    for event in &mut state.events {
        if !event.has_started && event.not_before <= now {
            event.has_started = true;
            state.incarnation += 1;
        }
    }
}

fn list(state: &State) -> String {
    let events: Vec<_> = state
        .events
        .iter()
        .map(|event| {
            let not_before = if event.has_started {
                String::new()
            } else {
                httpdate::fmt_http_date(event.not_before)
            };
            json!({
                "EventId": event.id,
                "EventType": event.kind,
                "ResourceType": "VirtualMachine",
                "Resources": event.resources,
                "EventStatus": if event.has_started { "Started" } else { "Scheduled" },
                "NotBefore": not_before,
                "Description": "played",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            })
        })
        .collect();
    json!({"DocumentIncarnation": state.incarnation, "Events": events}).to_string()
}

#[derive(Debug, Deserialize)]
struct Approval {
    #[serde(rename = "StartRequests")]
    requests: Vec<StartRequest>,
}

#[derive(Debug, Deserialize)]
struct StartRequest {
    #[serde(rename = "EventId")]
    id: String,
}

fn approve(control: &Control, body: &str) -> Answer {
    let Ok(Approval { requests }) = serde_json::from_str(body) else {
        return plain(StatusCode::BAD_REQUEST, "");
    };
    let mut known = true;
    control.0.send_modify(|state| {
        for request in requests {
            match state.events.iter_mut().find(|event| event.id == request.id) {
                Some(event) => {
                    event.has_started = true;
                    state.incarnation += 1;
                    state.approved.push(request.id);
                }
                None => known = false,
            }
        }
    });
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    plain(status, "")
}
