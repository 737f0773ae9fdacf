//! From what a cloud says until the freeze begins.
//!
//! One workload whose memory is copied ahead, under a daemon that watches everybody. Each time somebody
//! says that the machine will go, the workload is frozen; its commit is held up by the store, the notice
//! is taken back, and it runs on. So what is measured is the real thing, up to the freeze, as often as is
//! wanted. The moment of the freeze is the daemon's: when the filter inside CRIU asked it the first time,
//! with the tree standing still.

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use lifeboat_metadata::{Control, Emulator, Wanted};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::{
    Bench, Setting,
    node::{LOOK_INTERVAL, Node, Orders, Place},
    report::{Check, Outcome, Plot, Table, ratio},
};
use crate::{
    timeline::{self, Line},
    workload::Shape,
};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a machine stays that does not say: what says so by a signal cannot take it back.
const NOTICE: Duration = Duration::from_secs(3);

/// How long clouds say that it stays.
const WITHIN: Duration = Duration::from_secs(30);

/// Between what is said and taking it back, beyond what hearing of it may take, at first. It is doubled
/// where the daemon has not read the frozen memory by then, which is when it tells of the freeze.
const STANDS: Duration = Duration::from_millis(400);

/// How often it is doubled.
const TRIES: u32 = 4;

/// Longest time between two notices; it is chosen anew each time, so that they come at another point
/// of the daemon's rounds.
const BETWEEN: Duration = Duration::from_millis(300);

/// Acceptance: from what is said to the freeze, for who is told at once; and besides the time between
/// two questions, for who asks.
const FREEZE_MS: f64 = 100.0;

/// The name of the workload.
const NAME: &str = "w";

/// Commits wait for longer than any notice stands; the first of these operations is the claim.
const PLAN: &str = "create.delay:60s@2-1000000";

/// The scenario.
#[derive(Debug, Args)]
pub(crate) struct Notice {
    #[command(flatten)]
    setting: Setting,
    #[command(flatten)]
    shape: Shape,
    /// Notices of Google's, which are pushed
    #[arg(long, default_value_t = 200)]
    pushed: u16,
    /// Notices of each other source
    #[arg(long, default_value_t = 5)]
    others: u16,
}

/// Who gives notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Giver {
    Gce,
    Aws,
    Azure,
    File,
    Call,
    Power,
}

impl Giver {
    const ALL: [Self; 6] = [
        Self::Gce,
        Self::Call,
        Self::File,
        Self::Aws,
        Self::Azure,
        Self::Power,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Gce => "gce",
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::File => "file",
            Self::Call => "call",
            Self::Power => "sigpwr",
        }
    }

    /// Time between two questions.
    const fn poll(self) -> Duration {
        match self {
            Self::Aws | Self::Azure => Duration::from_secs(1),
            Self::File => Duration::from_millis(200),
            Self::Gce | Self::Call | Self::Power => Duration::ZERO,
        }
    }

    /// What is to hold, in milliseconds.
    fn bound_ms(self) -> f64 {
        FREEZE_MS + self.poll().as_secs_f64() * 1000.0
    }
}

/// One notice.
#[derive(Clone, Debug)]
struct One {
    /// From what is said to the daemon's notice, in microseconds.
    noticed_us: u64,
    /// From what is said to the freeze, in microseconds.
    frozen_us: u64,
    /// The stages of the save.
    stages: String,
}

impl Notice {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut bench = Bench::new(&self.setting)?;
        let address = "127.0.0.1:0".parse().context("an address")?;
        let emulator = Emulator::bind(address, Wanted::All).await?;
        let (endpoint, control) = (emulator.address()?, emulator.control());
        tokio::spawn(emulator.serve());
        let joint = if bench.store.contains('?') { '&' } else { '?' };
        let config = format!(
            "metadata_endpoint = 'http://{endpoint}'\nnotice = '{}s'\n[watch]\n\
             cloud = ['gce', 'aws', 'azure']\n[watch.logind]\nenabled = false\n",
            NOTICE.as_secs()
        );
        let place = Place {
            store: Some(format!("faulty+{}{joint}plan={PLAN}", bench.store)),
            config,
            environment: vec![("LIFEBOAT_ALLOW_FAULTS", "1".to_owned())],
            ..Place::default()
        };
        let node = Node::start_at(&bench, "a", Orders::default(), place).await?;
        let mut workload = node.run(NAME, &self.shape)?;
        workload.wait_for("ready", LIMIT).await?;
        let written = self.shape.dirty_rate.as_u64() * 4 + (8 << 20);
        node.wait_until_saved(NAME, written, LIMIT).await?;
        until_watched(&node).await?;
        let (mut all, mut stands) = (Vec::new(), STANDS);
        for giver in Giver::ALL {
            let times = match giver {
                Giver::Gce => self.pushed,
                _ => self.others,
            };
            let mut ones = Vec::new();
            for _ in 0..times {
                ones.push(frozen(&node, &control, giver, &mut stands).await?);
                let pause = BETWEEN.mul_f64(rand::random::<f64>());
                tokio::time::sleep(pause).await;
            }
            all.push((giver, ones));
        }
        workload.terminate().await?;
        node.stop().await?;
        bench.store = format!("{} (commits held up)", bench.store);
        bench.print(self.outcome(&all))?;
        Ok(ExitCode::SUCCESS)
    }

    fn outcome(&self, all: &[(Giver, Vec<One>)]) -> Outcome {
        let mut table = Table::new(&["notice to freeze", "runs", "noticed", "p50", "p99", "max"]);
        let mut figures = json!({
            "workload_bytes": self.shape.size.as_u64(),
            "dirty_rate": self.shape.dirty_rate.as_u64(),
        });
        let (mut checks, mut bars) = (Vec::new(), Vec::new());
        for (giver, ones) in all.iter().filter(|(_, ones)| !ones.is_empty()) {
            let frozen: Vec<u64> = ones.iter().map(|one| one.frozen_us).collect();
            let noticed: Vec<u64> = ones.iter().map(|one| one.noticed_us).collect();
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| quantile(&frozen, part));
            let noticed = quantile(&noticed, 0.5);
            table.row([
                giver.name().to_owned(),
                ones.len().to_string(),
                milliseconds(noticed),
                milliseconds(p50),
                milliseconds(p99),
                milliseconds(max),
            ]);
            let slowest = ones.iter().max_by_key(|one| one.frozen_us);
            figures[giver.name()] = json!({
                "runs": ones.len(),
                "frozen_us": frozen,
                "p50_ms": ratio(p50, 1000),
                "p99_ms": ratio(p99, 1000),
                "noticed_p50_ms": ratio(noticed, 1000),
                "stages_of_the_slowest": slowest.map(|one| one.stages.clone()),
            });
            checks.push(Check::at_most(
                format!("{}: p99 from the notice to the freeze in ms", giver.name()),
                ratio(p99, 1000),
                giver.bound_ms(),
            ));
            bars.push((giver.name().to_owned(), ratio(p99, 1000)));
        }
        let plots = vec![Plot::new("From the notice to the freeze, p99", "ms", bars)];
        Outcome {
            scenario: "notice",
            table,
            figures,
            checks,
            plots,
        }
    }
}

/// Waits until the daemon has an answer of everybody.
async fn until_watched(node: &Node) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let (_, output) = node.call(&["--output", "json", "status"]).await?;
        let status: Value = serde_json::from_slice(&output).unwrap_or_default();
        let sources = status["notice_sources"].as_array();
        let works = |name: &str| {
            let mut all = sources.into_iter().flatten();
            all.any(|one| one["name"] == name && one["works"] == true)
        };
        if ["gce", "aws", "azure", "file"].into_iter().all(works) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "not all sources answer: {status}");
        tokio::time::sleep(LOOK_INTERVAL * 10).await;
    }
}

/// Has it said until the freeze is seen.
async fn frozen(
    node: &Node,
    control: &Control,
    giver: Giver,
    stands: &mut Duration,
) -> anyhow::Result<One> {
    for _ in 0..TRIES {
        if let Some(one) = once(node, control, giver, *stands).await? {
            return Ok(one);
        }
        *stands *= 2;
    }
    bail!("{}: no freeze within {stands:?}", giver.name())
}

/// Says it, sees the freeze, and takes it back. `None`: it was taken back before the daemon could tell.
async fn once(
    node: &Node,
    control: &Control,
    giver: Giver,
    stands: Duration,
) -> anyhow::Result<Option<One>> {
    let saves = |lines: &[Line]| {
        lines
            .iter()
            .filter(|one| one.message == "save ended")
            .count()
    };
    let notices = |line: &&Line| line.message == "notice" && line.fields["what"] == "given";
    let before = timeline::lines(&node.logged());
    let said = give(node, control, giver).await?;
    tokio::time::sleep(giver.poll() + stands).await;
    take_back(node, control, giver, &said.event).await?;
    let end = Instant::now() + LIMIT;
    let after = loop {
        let lines = timeline::lines(&node.logged());
        if saves(&lines) > saves(&before) {
            break lines;
        }
        ensure!(Instant::now() < end, "{}: no save ended", giver.name());
        tokio::time::sleep(LOOK_INTERVAL * 4).await;
    };
    let mut ended = after.iter().filter(|line| line.message == "save ended");
    let save = ended.nth(saves(&before)).context("it was just there")?;
    let frozen = save.number("frozen_at_unix_us").unwrap_or(0);
    let count = before.iter().filter(notices).count();
    let notice = after.iter().filter(notices).nth(count);
    let noticed = notice.map(|line| line.unix_us);
    node.wait_for_state(NAME, "running", LIMIT).await?;
    until_forgotten(node).await?;
    Ok((frozen > said.unix_us).then(|| One {
        noticed_us: noticed.unwrap_or(0).saturating_sub(said.unix_us),
        frozen_us: frozen - said.unix_us,
        stages: format!(
            "frozen={} {}",
            save.number("frozen_after_ms").unwrap_or(0),
            save.fields["stages"].as_str().unwrap_or("")
        ),
    }))
}

/// Something that was said.
struct Said {
    unix_us: u64,
    event: String,
}

async fn give(node: &Node, control: &Control, giver: Giver) -> anyhow::Result<Said> {
    let within = format!("{}s", WITHIN.as_secs());
    // Made beside, and put there in one step.
    let (file, made) = (node.state().join("notice"), node.state().join("notice.new"));
    if giver == Giver::File {
        fs::write(&made, &within).context("write a notice")?;
    }
    let unix_us = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let mut event = String::new();
    match giver {
        Giver::Gce => {
            control.set_gce("preempted", "TRUE");
        }
        Giver::Aws => control.set_instance_action(Some(("terminate", WITHIN))),
        Giver::Azure => event = control.schedule("Preempt", WITHIN),
        Giver::File => fs::rename(&made, &file).context("give a notice")?,
        Giver::Call => {
            let arguments = ["notice", "preemption", "--within", &within];
            let (is_taken, _) = node.call(&arguments).await?;
            ensure!(is_taken, "the notice was not taken");
        }
        Giver::Power => kill_process(node.pid()?, Signal::POWER).context("signal the daemon")?,
    }
    Ok(Said { unix_us, event })
}

async fn take_back(
    node: &Node,
    control: &Control,
    giver: Giver,
    event: &str,
) -> anyhow::Result<()> {
    match giver {
        Giver::Gce => {
            control.set_gce("preempted", "FALSE");
        }
        Giver::Aws => control.set_instance_action(None),
        Giver::Azure => {
            control.cancel(event);
        }
        Giver::File => {
            let file = node.state().join("notice-withdrawn");
            fs::write(file, "").context("take a notice back")?;
        }
        Giver::Call => drop(node.call(&["notice", "--withdraw"]).await?),
        // It is over when its time is.
        Giver::Power => {}
    }
    Ok(())
}

/// Waits until no notice stands.
async fn until_forgotten(node: &Node) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let (_, output) = node.call(&["--output", "json", "status"]).await?;
        let status: Value = serde_json::from_slice(&output).unwrap_or_default();
        if status["notice"].is_null() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "a notice stands: {status}");
        tokio::time::sleep(LOOK_INTERVAL * 4).await;
    }
}

/// A quantile: the smallest figure that so large a part does not exceed.
fn quantile(figures: &[u64], part: f64) -> u64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank"
    )]
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_figures() {
        let figures: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(quantile(&figures, 0.5), 100);
        assert_eq!(quantile(&figures, 0.99), 198);
        assert_eq!(quantile(&figures, 1.0), 200);
        assert_eq!(quantile(&[7], 0.99), 7);
    }
}
