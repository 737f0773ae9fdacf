//! Azure: Scheduled Events.
//!
//! The list has events of every machine of the availability set or scale set: only those that name this
//! one count. Its name is asked of the same server before, and until it is known nothing can be said.
//! The first call turns the service on and may take two minutes; later ones are fast. There is no way
//! to wait, so the list is asked for every second; an unchanged `DocumentIncarnation` says that nothing
//! is new. An event that is no longer in the list, or is `Canceled` or `Completed`, was withdrawn.
//!
//! `Preempt` comes at least 30 s ahead. It may be approved early (`StartRequests`). An approved event
//! happens at once, and others on the machine may still need the time; so that is done only where it is
//! asked for (`approve`), when all workloads on this machine are saved ([`Saved`]), not before, and only
//! for events that name no other machine, since an approval counts for all that an event names.
//!
//! Source: "Scheduled Events for Linux VMs" and "Azure Instance Metadata Service", Microsoft.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde::Deserialize;

use crate::{
    client::{Client, ClientError},
    clock,
    config::AzureConfig,
    feed::Feed,
    notice::{Kind, Sighting, Source},
    watching::Saved,
};

/// The list of events; also where approvals go.
const EVENTS_PATH: &str = "/metadata/scheduledevents?api-version=2020-07-01";

/// The name by which events call this machine.
const NAME_PATH: &str = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";

/// Without this header the server refuses.
const HEADERS: &[(&str, &str)] = &[("Metadata", "true")];

/// Longest time for the first list: the service is turned on by it.
const FIRST_LIMIT: Duration = Duration::from_secs(150);

/// Longest time for any other answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Longest name of a machine, in characters.
const NAME_CHARS_MAX: usize = 256;

/// Most events of one list that are looked at.
const EVENTS_MAX: usize = 256;

/// How often an approval is tried; without it the event happens at its time anyway.
const APPROVALS_MAX: u32 = 5;

/// Watches the list until the task is aborted.
pub(crate) async fn run(client: Client, config: AzureConfig, feed: Feed, mut saved: Saved) {
    let mut events = Events {
        client,
        name: config.vm.clone(),
        incarnation: None,
        seen: Vec::new(),
        approved: Vec::new(),
    };
    let mut limit = FIRST_LIMIT;
    let mut turns = tokio::time::interval(config.poll);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = turns.tick() => match events.look(&config, &feed, limit).await {
                Ok(()) => {
                    limit = ANSWER_LIMIT;
                    feed.success(Source::Azure);
                }
                Err(error) => feed.failure(Source::Azure, &error),
            },
            answered = saved.next(), if config.approve => {
                // Where nothing was to be saved, somebody else may still need the time.
                if answered.is_all_saved() {
                    events.approve(&feed).await;
                }
            }
        }
    }
}

/// The list, as it was last understood.
#[derive(Debug)]
struct Events {
    client: Client,
    name: Option<String>,
    incarnation: Option<i64>,
    seen: Vec<Seen>,
    approved: Vec<String>,
}

/// An event about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    id: String,
    kind: Kind,
    is_only_ours: bool,
    has_started: bool,
}

impl Events {
    async fn look(
        &mut self,
        config: &AzureConfig,
        feed: &Feed,
        limit: Duration,
    ) -> Result<(), ClientError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => self.ask_name().await?,
        };
        let answer = self.client.get(EVENTS_PATH, HEADERS, limit).await?;
        let list = match answer.status {
            StatusCode::OK => parse(&answer.body).ok_or_else(|| answer.unexpected())?,
            _ => return Err(answer.unexpected()),
        };
        if self.incarnation == Some(list.incarnation) {
            return Ok(());
        }
        let mut seen = Vec::new();
        for event in list.events.iter().take(EVENTS_MAX) {
            let Some((kind, within)) = event.meaning(&name, answer.now(), config.notice) else {
                continue;
            };
            feed.seen(
                Sighting::new(Source::Azure, &event.id)
                    .kind(kind)
                    .within(within),
            )
            .await;
            seen.push(Seen {
                id: event.id.clone(),
                kind,
                is_only_ours: event.resources.len() == 1,
                has_started: event.status == "Started",
            });
        }
        for gone in &self.seen {
            if !seen.iter().any(|one| one.id == gone.id) {
                feed.gone(Source::Azure, &gone.id).await;
            }
        }
        self.seen = seen;
        self.incarnation = Some(list.incarnation);
        Ok(())
    }

    async fn ask_name(&mut self) -> Result<String, ClientError> {
        let answer = self.client.get(NAME_PATH, HEADERS, ANSWER_LIMIT).await?;
        let name = answer.body.trim();
        let is_name = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
        if answer.status != StatusCode::OK || !is_name {
            return Err(answer.unexpected());
        }
        tracing::info!(name, "the name of this machine in Azure's events");
        self.name = Some(name.to_owned());
        Ok(name.to_owned())
    }

    /// Says that what is to come may come now.
    async fn approve(&mut self, feed: &Feed) {
        for event in self.seen.clone() {
            let wanted = event.kind.ends_programs()
                && event.is_only_ours
                && !event.has_started
                && !self.approved.contains(&event.id);
            if !wanted {
                continue;
            }
            for _ in 0..APPROVALS_MAX {
                match self.approve_one(&event.id).await {
                    Ok(()) => {
                        tracing::info!(event = event.id, "approved: every workload is saved");
                        self.approved.push(event.id);
                        break;
                    }
                    Err(error) => feed.failure(Source::Azure, &error),
                }
            }
        }
        // Those that are past are not asked about again.
        let seen = &self.seen;
        self.approved
            .retain(|id| seen.iter().any(|one| one.id == *id));
    }

    async fn approve_one(&self, id: &str) -> Result<(), ClientError> {
        let body = serde_json::json!({"StartRequests": [{"EventId": id}]}).to_string();
        let headers = [HEADERS[0], ("Content-Type", "application/json")];
        let answer = self
            .client
            .send(Method::POST, EVENTS_PATH, &headers, body, ANSWER_LIMIT)
            .await?;
        if answer.status == StatusCode::OK {
            Ok(())
        } else {
            Err(answer.unexpected())
        }
    }
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(rename = "DocumentIncarnation")]
    incarnation: i64,
    #[serde(rename = "Events")]
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "EventId")]
    id: String,
    #[serde(rename = "EventType")]
    kind: String,
    #[serde(rename = "Resources", default)]
    resources: Vec<String>,
    #[serde(rename = "EventStatus", default)]
    status: String,
    /// Empty once it has started.
    #[serde(rename = "NotBefore", default)]
    not_before: Option<String>,
}

fn parse(body: &str) -> Option<List> {
    serde_json::from_str(body.trim_start_matches('\u{feff}')).ok()
}

impl Event {
    /// What the event means for the machine called `name`, and in how long; `None`: nothing.
    fn meaning(&self, name: &str, now: SystemTime, notice: Duration) -> Option<(Kind, Duration)> {
        let is_ours = |one: &String| {
            one.trim_start_matches('_')
                .eq_ignore_ascii_case(name.trim_start_matches('_'))
        };
        if !self.resources.iter().any(is_ours) {
            return None;
        }
        if matches!(&*self.status, "Canceled" | "Completed") {
            return None;
        }
        let kind = match &*self.kind {
            "Preempt" | "Terminate" => Kind::Preemption,
            // Memory and temporary disks are lost in both cases.
            "Reboot" | "Redeploy" => Kind::Maintenance,
            // The machine stands still for some seconds; programs live on. And what is not known.
            _ => Kind::Early,
        };
        let at = self.not_before.as_deref().and_then(clock::parse);
        let within = match at {
            Some(at) => clock::remaining(at, now),
            None if self.status == "Started" => clock::REMAINING_MIN,
            None => notice,
        };
        Some((kind, within))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &str = r#"{"DocumentIncarnation": 2, "Events": [{
        "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123", "EventStatus": "Scheduled",
        "EventType": "EVENT", "ResourceType": "VirtualMachine", "Resources": ["WestNO_0", "WestNO_1"],
        "NotBefore": "Mon, 11 Apr 2022 22:26:58 GMT", "Description": "x", "EventSource": "Platform",
        "DurationInSeconds": 5}]}"#;

    fn meaning(kind: &str, name: &str) -> Option<(Kind, u64)> {
        let list = parse(&BODY.replace("EVENT\",", &format!("{kind}\","))).unwrap();
        let now = clock::parse("Mon, 11 Apr 2022 22:26:28 GMT").unwrap();
        let (kind, within) = list.events[0].meaning(name, now, Duration::from_secs(25))?;
        Some((kind, within.as_secs()))
    }

    #[test]
    fn only_events_of_this_machine_count() {
        assert_eq!(meaning("Preempt", "westno_1"), Some((Kind::Preemption, 30)));
        assert_eq!(
            meaning("Redeploy", "WestNO_0"),
            Some((Kind::Maintenance, 30))
        );
        assert_eq!(meaning("Freeze", "WestNO_0"), Some((Kind::Early, 30)));
        assert_eq!(meaning("Surprise", "WestNO_0"), Some((Kind::Early, 30)));
        assert_eq!(meaning("Preempt", "WestNO_10"), None);
    }

    #[test]
    fn an_event_that_has_started_leaves_little_time_and_one_that_is_cancelled_none() {
        let now = SystemTime::now();
        let notice = Duration::from_secs(25);
        let started = BODY
            .replace("Scheduled", "Started")
            .replace("Mon, 11 Apr 2022 22:26:58 GMT", "");
        let event = &parse(&started).unwrap().events[0];
        let (_, within) = event.meaning("WestNO_0", now, notice).unwrap();
        assert_eq!(within, clock::REMAINING_MIN);
        let cancelled = BODY.replace("Scheduled", "Canceled");
        let event = &parse(&cancelled).unwrap().events[0];
        assert_eq!(event.meaning("WestNO_0", now, notice), None);
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body in ".{0,300}", at in 0_usize..400, byte in any::<u8>()) {
            let _ = parse(&body);
            let mut damaged = BODY.as_bytes().to_vec();
            if let Some(place) = damaged.get_mut(at) {
                *place = byte;
            }
            if let Some(list) = parse(&String::from_utf8_lossy(&damaged)) {
                for event in list.events {
                    let _ = event.meaning("WestNO_0", SystemTime::now(), Duration::from_secs(25));
                }
            }
        }
    }
}
