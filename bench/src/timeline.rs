//! What took how long, from the logs of two daemons (`--log-json`) and of the client.

use std::{fs, path::PathBuf, time::UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

/// Where the events are.
#[derive(Debug, Args)]
pub(crate) struct Timeline {
    /// Log of the daemon that the workload left
    #[arg(long)]
    from: PathBuf,
    /// Log of the daemon that it came to
    #[arg(long)]
    to: PathBuf,
    /// Output of `redis write`
    #[arg(long)]
    client: PathBuf,
    /// The workload
    #[arg(long)]
    workload: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moment {
    unix_ms: u64,
    what: String,
}

/// One line of a daemon's log.
#[derive(Debug)]
pub(crate) struct Line {
    /// When, in milliseconds since 1970.
    pub(crate) unix_ms: u64,
    /// The same in microseconds.
    pub(crate) unix_us: u64,
    /// Its words.
    pub(crate) message: String,
    /// Its fields.
    pub(crate) fields: Value,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(text).ok()?;
        let time = humantime::parse_rfc3339_weak(line["timestamp"].as_str()?.trim_end_matches('Z'));
        let since = time.ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            unix_ms: u64::try_from(since.as_millis()).ok()?,
            unix_us: u64::try_from(since.as_micros()).ok()?,
            message: line["fields"]["message"].as_str()?.to_owned(),
            fields: line["fields"].clone(),
        })
    }

    /// A field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let field = &self.fields[name];
        // 128-bit numbers are logged as text.
        field.as_u64().or_else(|| field.as_str()?.parse().ok())
    }
}

/// The lines of a daemon's log.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    text.lines().filter_map(Line::parse).collect()
}

/// Prints the table.
#[expect(clippy::print_stdout, reason = "this is the result")]
pub(crate) fn print(timeline: &Timeline) -> anyhow::Result<()> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    let mut moments = left(&lines(&read(&timeline.from)?), &timeline.workload)?;
    let (arrived, client) = (lines(&read(&timeline.to)?), read(&timeline.client)?);
    moments.extend(came(&arrived, &timeline.workload)?);
    moments.extend(answered(&client)?);
    moments.sort_by_key(|moment| moment.unix_ms);
    print!("{}", table(&moments));
    Ok(())
}

/// From the notice to the release.
fn left(lines: &[Line], workload: &str) -> anyhow::Result<Vec<Moment>> {
    let notice = lines
        .iter()
        .find(|line| line.message == "notice")
        .context("there is no notice")?;
    let ended = |line: &&Line| {
        line.message == "save ended"
            && line.fields["workload"] == workload
            && line.fields["committed"] == true
    };
    let save = lines
        .iter()
        .find(ended)
        .context("the first daemon committed nothing")?;
    let total = save.number("total_ms").context("the save has no total")?;
    let began = save.unix_ms - total;
    let at = |after: u64, what: String| Moment {
        unix_ms: began + after,
        what,
    };
    let frozen = save
        .number("frozen_after_ms")
        .context("the save has no freeze")?;
    let freeze = save.number("freeze_ms").context("the save has no freeze")?;
    let mib = |name: &str| save.number(name).unwrap_or(0) >> 20;
    let mut moments = vec![
        Moment {
            unix_ms: notice.unix_ms,
            what: "notice: this machine will go".to_owned(),
        },
        at(frozen, "frozen".to_owned()),
        at(
            frozen + freeze,
            format!("last byte read ({} MiB)", mib("read_bytes")),
        ),
    ];
    let stages = save.fields["stages"].as_str().unwrap_or("");
    for (name, after) in stages.split(' ').filter_map(|stage| stage.split_once('=')) {
        let after: u64 = after.parse().context("a stage has no time")?;
        match name {
            "upload" => moments.push(at(
                after,
                format!("uploaded ({} MiB)", mib("uploaded_bytes")),
            )),
            "commit" => moments.push(at(after, committed(save))),
            "release" => moments.push(at(after, "ended here".to_owned())),
            _ => {}
        }
    }
    Ok(moments)
}

fn committed(save: &Line) -> String {
    match save.fields["margin_ms"].as_i64() {
        Some(left) => format!(
            "committed ({}.{} s before the end)",
            left / 1000,
            left / 100 % 10
        ),
        None => "committed".to_owned(),
    }
}

/// From the claim to the last page.
fn came(lines: &[Line], workload: &str) -> anyhow::Result<Vec<Moment>> {
    let find = |message: &str| {
        let found = |line: &&Line| line.message == message && line.fields["workload"] == workload;
        lines
            .iter()
            .find(found)
            .with_context(|| format!("the second daemon has no {message:?}"))
    };
    let read = find("manifest and images read")?;
    let rebuilt = find("processes rebuilt")?;
    let loaded = find("all memory is loaded")?;
    let faults = loaded.number("demand_faults").unwrap_or(0);
    let moment = |line: &Line, what: String| Moment {
        unix_ms: line.unix_ms,
        what,
    };
    Ok(vec![
        moment(read, "on the other machine: manifest read".to_owned()),
        moment(rebuilt, "runs again".to_owned()),
        moment(
            loaded,
            format!("all memory is loaded ({faults} faults answered)"),
        ),
    ])
}

/// What the client saw.
fn answered(text: &str) -> anyhow::Result<Vec<Moment>> {
    let mut moments = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).context("read the client's events")?;
        let unix_ms = event["at_unix_ms"]
            .as_u64()
            .context("an event has no time")?;
        if event["event"] == "first-answer" {
            let away = event["away_ms"].as_u64().unwrap_or(0);
            let what = format!("first answer to the client ({away} ms after the last one)");
            moments.push(Moment { unix_ms, what });
        }
    }
    anyhow::ensure!(
        !moments.is_empty(),
        "the client got no answer after the move"
    );
    Ok(moments)
}

fn table(moments: &[Moment]) -> String {
    let mut text = String::from("    at s      + s\n");
    let Some(first) = moments.first() else {
        return text;
    };
    let mut before = first.unix_ms;
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    for moment in moments {
        let (at, step) = (moment.unix_ms - first.unix_ms, moment.unix_ms - before);
        before = moment.unix_ms;
        text.push_str(&format!(
            "{:>8}  {:>7}  {}\n",
            seconds(at),
            seconds(step),
            moment.what
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_a_save_become_moments() {
        let log = r#"{"timestamp":"2026-01-01T00:00:10.000000Z","fields":{"message":"notice"}}
{"timestamp":"2026-01-01T00:00:12.000000Z","fields":{"message":"save ended","workload":"w","committed":true,"total_ms":1900,"frozen_after_ms":100,"freeze_ms":"200","stages":"describe=50 upload=1500 commit=1700 release=1800"}}
not a line"#;
        let moments = left(&lines(log), "w").unwrap();
        let after: Vec<u64> = moments
            .iter()
            .map(|one| one.unix_ms - moments[0].unix_ms)
            .collect();
        assert_eq!(after, [0, 200, 400, 1600, 1800, 1900]);
        assert!(left(&lines(log), "other").is_err());
    }

    #[test]
    fn the_table_has_differences() {
        let at = |unix_ms, what: &str| Moment {
            unix_ms,
            what: what.to_owned(),
        };
        let text = table(&[at(1000, "a"), at(1500, "b"), at(3001, "c")]);
        let expected =
            "    at s      + s\n   0.000    0.000  a\n   0.500    0.500  b\n   2.001    1.501  c\n";
        assert_eq!(text, expected);
    }
}
