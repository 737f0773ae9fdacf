//! The whole gap, end to end: what a client of redis sees when the machine is taken away and a waiting
//! one goes on. Two nodes with a network and a shaped link each, and a store that both reach by it. The
//! notice comes from a (played) metadata server on A's link; at the same moment `lifeboat run` is started
//! on B, and waits for A's commit. The client asks A's address and B's: the gap is from the last answer
//! of the one to the first answer of the other.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use bytesize::ByteSize;
use clap::Args;
use lifeboat_metadata::{Emulator, Wanted};
use serde::Serialize;
use serde_json::json;

use super::{
    Bench, Setting,
    lifeboat::millis,
    network::Link,
    node::{Node, Orders, Place},
    redis_server,
    report::{Outcome, Plot, Table, median, ratio, size},
};
use crate::{
    redis::{Counting, fill, first_answer, first_count},
    timeline::{self, Line},
};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(900);

/// What may be left to be saved when the notice comes, in bytes.
const UNSAVED_BYTES: u64 = 32 << 20;

/// Time that the client counts before the notice.
const QUIET: Duration = Duration::from_secs(2);

/// Where redis listens on each node.
const PORT: u16 = 6400;

/// What the waiting hold says.
const WAITS: &str = "waiting for node";

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Handover {
    #[command(flatten)]
    setting: Setting,
    /// Sizes of the data in redis
    #[arg(long, value_delimiter = ',', default_value = "512MiB,1GiB")]
    sizes: Vec<ByteSize>,
    /// Rate of each node's link, in each direction, in megabits per second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    megabits: u64,
    /// How often each is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// What one handover was like; times are in milliseconds from the notice.
#[derive(Clone, Debug, Default, Serialize)]
struct One {
    data_bytes: u64,
    gap_ms: u64,
    unsaved_bytes: u64,
    last_answer_ms: i64,
    frozen_ms: i64,
    committed_ms: i64,
    opened_ms: i64,
    runs_ms: i64,
    first_answer_ms: i64,
    loaded_ms: i64,
    margin_ms: Option<i64>,
    uploaded_bytes: u64,
}

impl One {
    /// The same with what the daemons have logged; `at` is the notice, in milliseconds since 1970.
    fn with_logs(self, at: u64, left: &[Line], came: &[Line]) -> anyhow::Result<Self> {
        let since = |line: &Line| signed(line.unix_ms) - signed(at);
        let find = |lines: &[Line], words: &str| {
            let found = lines.iter().rposition(|line| line.message == words);
            found.with_context(|| format!("no {words:?} in the log"))
        };
        let save = &left[find(left, "save ended")?];
        let began = since(save) - signed(save.number("total_ms").unwrap_or(0));
        let moment = |words| Ok::<_, anyhow::Error>(since(&came[find(came, words)?]));
        Ok(Self {
            frozen_ms: began + signed(save.number("frozen_after_ms").unwrap_or(0)),
            committed_ms: began + signed(stage(save, "commit").unwrap_or(0)),
            opened_ms: moment("manifest and images read")?,
            runs_ms: moment("processes rebuilt")?,
            loaded_ms: moment("all memory is loaded")?,
            margin_ms: save.fields["margin_ms"].as_i64(),
            uploaded_bytes: save.number("uploaded_bytes").unwrap_or(0),
            ..self
        })
    }
}

impl Handover {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let bench = Bench::new(&self.setting)?;
        let mut all = Vec::new();
        for size in &self.sizes {
            for round in 0..self.rounds {
                all.push(self.measure(&bench, size.as_u64(), round).await?);
            }
        }
        bench.print(self.outcome(&all))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(&self, bench: &Bench, bytes: u64, round: u16) -> anyhow::Result<One> {
        let (mut one, mut other) = (Link::new(self.megabits)?, Link::new(self.megabits)?);
        let emulator = Emulator::bind((one.here(), 0).into(), Wanted::Gce).await?;
        let config = format!(
            "metadata_endpoint = 'http://{}'\n[watch]\ncloud = 'gce'\n[watch.logind]\nenabled = false\n",
            emulator.address()?
        );
        let control = emulator.control();
        tokio::spawn(emulator.serve());
        let name = format!("handover-{}-{bytes}-{round}", std::process::id());
        let place = |link: &Link, store, config| Place {
            store: Some(store),
            config,
            network: Some(link.namespace().to_owned()),
            ..Place::default()
        };
        let by_one = reached_by(&bench.store, &mut one).await?;
        let by_other = reached_by(&bench.store, &mut other).await?;
        let nowhere = "[watch]\ncloud = 'none'\n[watch.logind]\nenabled = false\n".to_owned();
        let (first, second) = (
            place(&one, by_one, config),
            place(&other, by_other, nowhere),
        );
        let a = Node::start_at(bench, &format!("{name}-a"), Orders::default(), first).await?;
        let b = Node::start_at(bench, &format!("{name}-b"), Orders::default(), second).await?;
        let mut words =
            redis_server::command_line(SocketAddr::from(([0, 0, 0, 0], PORT)), bench.path());
        words.extend(["--protected-mode", "no"].map(Into::into));
        let [on_a, on_b] = [&one, &other].map(|link| SocketAddr::new(link.there(), PORT));
        let before = a.run_program(&name, &words)?;
        first_answer(on_a, None, LIMIT).await?;
        fill(on_a, bytes).await?;
        let known = a.wait_until_saved(&name, UNSAVED_BYTES, LIMIT).await?;
        let counting = Counting::start(on_a);
        tokio::time::sleep(QUIET).await;
        let (said, at) = (Instant::now(), now_ms()?);
        control.set_gce("preempted", "TRUE");
        let after = b.run_program(&name, &words)?;
        let (answered, number) = first_count(on_b, LIMIT).await?;
        let (last, acknowledged) = counting.end().context("A never answered")?;
        ensure!(
            (acknowledged..=acknowledged + 1).contains(&number),
            "A acknowledged {acknowledged}, and B is at {number}"
        );
        ensure!(
            b.said().contains(WAITS),
            "the hold on B did not say that it waits: {}",
            b.said()
        );
        before.end(LIMIT).await?;
        b.wait_for_state(&name, "running", LIMIT).await?;
        after.terminate().await?;
        let (left, came) = (timeline::lines(&a.logged()), timeline::lines(&b.logged()));
        a.stop().await?;
        b.stop().await?;
        let one = One {
            data_bytes: bytes,
            gap_ms: millis(answered - last),
            unsaved_bytes: known["unsaved_bytes"].as_u64().unwrap_or(0),
            last_answer_ms: difference(last, said),
            first_answer_ms: difference(answered, said),
            ..One::default()
        };
        one.with_logs(at, &left, &came)
    }

    fn outcome(&self, all: &[One]) -> Outcome {
        let mut table = Table::new(&[
            "handover",
            "gap",
            "frozen",
            "committed",
            "opened",
            "runs",
            "first answer",
            "loaded",
            "sent",
        ]);
        let mut bars = Vec::new();
        for bytes in self.sizes.iter().map(ByteSize::as_u64) {
            let these: Vec<&One> = all.iter().filter(|one| one.data_bytes == bytes).collect();
            let gap = median(these.iter().map(|one| one.gap_ms).collect());
            bars.push((size(bytes), ratio(gap, 1)));
            for one in these {
                let cells = [
                    signed(one.gap_ms),
                    one.frozen_ms,
                    one.committed_ms,
                    one.opened_ms,
                    one.runs_ms,
                    one.first_answer_ms,
                    one.loaded_ms,
                ];
                let cells = cells.into_iter().map(|ms| format!("{ms} ms"));
                let sent = [size(one.uploaded_bytes)];
                table.row([size(bytes)].into_iter().chain(cells).chain(sent));
            }
        }
        Outcome {
            scenario: "handover",
            table,
            figures: json!({ "megabits": self.megabits, "handovers": all }),
            checks: Vec::new(),
            plots: vec![Plot::new(
                format!(
                    "Last answer there to first answer here, at {} Mbit/s",
                    self.megabits
                ),
                "ms",
                bars,
            )],
        }
    }
}

/// The store as it is reached by a link.
async fn reached_by(store: &str, link: &mut Link) -> anyhow::Result<String> {
    let server = store
        .split(['?', '&'])
        .find_map(|part| part.strip_prefix("endpoint=http://"));
    let server = server.context(
        "a folder has no link: name a server, for example \
         --store 's3://bucket/prefix?endpoint=http://127.0.0.1:9000'",
    )?;
    let door = link.door(server.trim_end_matches('/')).await?;
    Ok(store.replace(server, &door.to_string()))
}

fn stage(save: &Line, name: &str) -> Option<u64> {
    let stages = save.fields["stages"].as_str()?;
    let mut pairs = stages.split(' ').filter_map(|stage| stage.split_once('='));
    pairs.find(|(stage, _)| *stage == name)?.1.parse().ok()
}

fn now_ms() -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_millis())?)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn difference(one: Instant, other: Instant) -> i64 {
    match one.checked_duration_since(other) {
        Some(after) => signed(millis(after)),
        None => -signed(millis(other - one)),
    }
}
