//! Google's metadata server, as far as preemption goes.
//!
//! Behaves as documented in "About VM metadata" and "Query VM metadata" (Google Cloud):
//!
//! - Requests without `Metadata-Flavor: Google`, and those with `X-Forwarded-For`, are refused (403).
//! - `wait_for_change=true` answers at the next change; with `last_etag=E` at once if the value has
//!   another etag than `E`; with `timeout_sec=N` after `N` seconds with the value as it is.
//! - Every answer carries `Metadata-Flavor: Google` and the value's `ETag`.
//! - While it is "maintained" everything is answered with 503, also requests that wait.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::watch;

use crate::{
    server::{Answer, Asked, plain, with},
    state::{Control, State, Value},
};

/// Path below which the values are.
const ROOT: &str = "/computeMetadata/v1/instance/";

/// Longest time that a request waits when it names none.
const WAIT_MAX: Duration = Duration::from_secs(3600);

pub(crate) async fn answer(control: &Control, asked: &Asked) -> Answer {
    let mut answer = value(control, asked).await;
    with(&mut answer, "metadata-flavor", "Google");
    with(&mut answer, "content-type", "application/text");
    with(&mut answer, "server", "Metadata Server for VM");
    answer
}

async fn value(control: &Control, asked: &Asked) -> Answer {
    let is_allowed = asked.header("metadata-flavor") == Some("Google")
        && !asked.headers.contains_key("x-forwarded-for");
    if !is_allowed {
        return plain(
            StatusCode::FORBIDDEN,
            "Missing Metadata-Flavor:Google header",
        );
    }
    if asked.method != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET only");
    }
    let Some(name) = asked.path.strip_prefix(ROOT) else {
        return plain(StatusCode::NOT_FOUND, "not found");
    };
    let wait = Wait::parse(asked);
    wait.answer(control.0.subscribe(), name).await
}

/// What a request waits for.
#[derive(Debug, Default)]
struct Wait {
    for_change: bool,
    last_etag: Option<String>,
    timeout: Option<Duration>,
}

impl Wait {
    fn parse(asked: &Asked) -> Self {
        let timeout = asked.parameter("timeout_sec");
        Self {
            for_change: asked
                .parameter("wait_for_change")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            last_etag: asked.parameter("last_etag").map(str::to_owned),
            timeout: timeout
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
        }
    }

    async fn answer(&self, mut state: watch::Receiver<State>, name: &str) -> Answer {
        let current = state.borrow_and_update().values.get(name).map(Value::etag);
        let Some(current) = current else {
            return plain(StatusCode::NOT_FOUND, "not found");
        };
        if self.for_change {
            let known = self.last_etag.as_ref().unwrap_or(&current);
            let changed = state.wait_for(|state| {
                state.unavailable
                    || state
                        .values
                        .get(name)
                        .is_some_and(|value| value.etag() != *known)
            });
            let limit = self.timeout.unwrap_or(WAIT_MAX).min(WAIT_MAX);
            // After the time, the value as it is.
            drop(tokio::time::timeout(limit, changed).await);
        }
        let state = state.borrow();
        if state.unavailable {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
        }
        match state.values.get(name) {
            Some(value) => {
                let mut answer = plain(StatusCode::OK, &value.text);
                with(&mut answer, "etag", &value.etag());
                answer
            }
            None => plain(StatusCode::NOT_FOUND, "not found"),
        }
    }
}
