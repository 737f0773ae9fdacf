//! What the servers say, and how it is changed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

/// Name of the machine that is played, as Azure's events call it.
pub(crate) const AZURE_NAME: &str = "lifeboat-vm";

/// A value of Google's, and how often it has changed.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) text: String,
    changes: u64,
}

impl Value {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            changes: 0,
        }
    }

    /// Sixteen hexadecimal digits, as the real ones look; never that of another text or time.
    pub(crate) fn etag(&self) -> String {
        let digest = blake3::hash(format!("{} {}", self.changes, self.text).as_bytes());
        digest.to_hex()[..16].to_owned()
    }
}

/// An event of Azure's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureEvent {
    /// Its id.
    pub id: String,
    /// `Preempt`, `Terminate`, `Reboot`, `Redeploy` or `Freeze`.
    pub kind: String,
    /// The machines that it names.
    pub resources: Vec<String>,
    /// When it will happen.
    pub not_before: SystemTime,
    /// Whether it happens.
    pub has_started: bool,
}

/// What the servers say.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) values: BTreeMap<&'static str, Value>,
    pub(crate) unavailable: bool,
    /// Tokens, and until when they are valid.
    pub(crate) tokens: BTreeMap<String, Instant>,
    pub(crate) instance_action: Option<String>,
    pub(crate) rebalance: Option<String>,
    pub(crate) incarnation: u64,
    pub(crate) events: Vec<AzureEvent>,
    pub(crate) approved: Vec<String>,
    pub(crate) first_call_delay: Duration,
    pub(crate) was_called: bool,
}

impl Default for State {
    fn default() -> Self {
        let values = [
            ("preempted", Value::new("FALSE")),
            ("maintenance-event", Value::new("NONE")),
            ("scheduling/preemptible", Value::new("TRUE")),
        ];
        Self {
            values: values.into(),
            unavailable: false,
            tokens: BTreeMap::new(),
            instance_action: None,
            rebalance: None,
            incarnation: 1,
            events: Vec::new(),
            approved: Vec::new(),
            first_call_delay: Duration::ZERO,
            was_called: false,
        }
    }
}

/// Changes what the servers say. Clones change the same.
#[derive(Clone, Debug, Default)]
pub struct Control(pub(crate) watch::Sender<State>);

impl Control {
    /// Sets a value of Google's; `false`: there is none of this name.
    pub fn set_gce(&self, name: &str, text: &str) -> bool {
        let mut known = true;
        self.0
            .send_modify(|state| match state.values.get_mut(name) {
                Some(value) if value.text != text => {
                    text.clone_into(&mut value.text);
                    value.changes += 1;
                }
                Some(_) => {}
                None => known = false,
            });
        known
    }

    /// How many requests are being answered now: those that wait for a change, mostly.
    #[must_use]
    pub fn asking(&self) -> usize {
        self.0.receiver_count()
    }

    /// Answers 503 to everybody, or not any more.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.0.send_modify(|state| state.unavailable = unavailable);
    }

    /// Sets, or takes back, what will happen to the spot instance, and in how long.
    pub fn set_instance_action(&self, action: Option<(&str, Duration)>) {
        let body = action.map(|(action, within)| {
            let at = humantime::format_rfc3339_seconds(SystemTime::now() + within);
            format!(r#"{{"action":"{action}","time":"{at}"}}"#)
        });
        self.0.send_modify(|state| state.instance_action = body);
    }

    /// Recommends a rebalance, or takes that back.
    pub fn set_rebalance(&self, is_recommended: bool) {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let body = is_recommended.then(|| format!(r#"{{"noticeTime":"{now}"}}"#));
        self.0.send_modify(|state| state.rebalance = body);
    }

    /// Does not accept the tokens given out so far any more.
    pub fn forget_tokens(&self) {
        self.0.send_modify(|state| state.tokens.clear());
    }

    /// Schedules an event of Azure's for the machine that is played, and returns its id.
    pub fn schedule(&self, kind: &str, within: Duration) -> String {
        self.schedule_for(kind, within, &[AZURE_NAME])
    }

    /// Schedules an event of Azure's for these machines, and returns its id.
    pub fn schedule_for(&self, kind: &str, within: Duration, resources: &[&str]) -> String {
        let number = rand::random::<u128>();
        let id = format!("{:08X}-{:04X}", number >> 96, (number >> 80) & 0xffff);
        let event = AzureEvent {
            id: id.clone(),
            kind: kind.to_owned(),
            resources: resources.iter().map(|&one| one.to_owned()).collect(),
            not_before: SystemTime::now() + within,
            has_started: false,
        };
        self.0.send_modify(|state| {
            state.events.push(event);
            state.incarnation += 1;
        });
        id
    }

    /// Removes an event of Azure's; `false`: there is none.
    pub fn cancel(&self, id: &str) -> bool {
        self.0.send_if_modified(|state| {
            let before = state.events.len();
            state.events.retain(|event| event.id != id);
            let has_changed = state.events.len() != before;
            state.incarnation += u64::from(has_changed);
            has_changed
        })
    }

    /// How long Azure's first call takes.
    pub fn set_first_call_delay(&self, delay: Duration) {
        self.0.send_modify(|state| state.first_call_delay = delay);
    }

    /// The events of Azure's that were approved.
    #[must_use]
    pub fn approved(&self) -> Vec<String> {
        self.0.borrow().approved.clone()
    }

    /// A control by its name and its value as text; `None`: there is none.
    pub(crate) fn by_name(&self, name: &str, text: &str) -> Option<Result<String, &'static str>> {
        let mut words = text.split_whitespace();
        let done = Some(Ok(String::new()));
        match name {
            "unavailable" => {
                self.set_unavailable(text == "true");
                done
            }
            "aws/instance-action" => {
                let Some(action) = words.next() else {
                    self.set_instance_action(None);
                    return done;
                };
                let Some(within) = seconds(words.next()) else {
                    return Some(Err("write for example: terminate 120"));
                };
                self.set_instance_action(Some((action, within)));
                done
            }
            "aws/rebalance" => {
                self.set_rebalance(!text.is_empty());
                done
            }
            "aws/forget-tokens" => {
                self.forget_tokens();
                done
            }
            "azure/event" => {
                let (Some(kind), Some(within)) = (words.next(), seconds(words.next())) else {
                    return Some(Err("write for example: Preempt 30"));
                };
                let names: Vec<&str> = words.collect();
                let names = if names.is_empty() {
                    vec![AZURE_NAME]
                } else {
                    names
                };
                Some(Ok(self.schedule_for(kind, within, &names)))
            }
            "azure/cancel" => self.cancel(text).then(|| Ok(String::new())),
            "azure/first-call-delay" => {
                let Some(delay) = seconds(Some(text)) else {
                    return Some(Err("write seconds"));
                };
                self.set_first_call_delay(delay);
                done
            }
            _ => self.set_gce(name, text).then(|| Ok(String::new())),
        }
    }
}

fn seconds(word: Option<&str>) -> Option<Duration> {
    word?.parse().ok().map(Duration::from_secs)
}
