//! A program whose lines are read as they come.

use std::{
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// How long a program may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A running program.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let started = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = started.with_context(|| format!("start {command:?}"))?;
        let output = child
            .stdout
            .take()
            .context("the program has standard output")?;
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(output).lines(),
        })
    }

    pub(super) fn pid(&self) -> anyhow::Result<Pid> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        pid.and_then(Pid::from_raw).context("the program has ended")
    }

    /// Waits for a line that begins with `start`; says when it came.
    pub(super) async fn wait_for(
        &mut self,
        start: &str,
        limit: Duration,
    ) -> anyhow::Result<Instant> {
        self.line(start, limit).await.map(|(at, _)| at)
    }

    /// Tells the program something, and waits for its answer: two figures after `word`.
    pub(super) async fn ask(
        &mut self,
        line: &str,
        word: &str,
        limit: Duration,
    ) -> anyhow::Result<[u64; 2]> {
        self.tell(line).await?;
        let (_, answer) = self.line(word, limit).await?;
        let mut figures = answer.split(' ').skip(1).map(str::parse);
        let mut figure = || {
            figures
                .next()
                .context("the answer is too short")?
                .context("read it")
        };
        Ok([figure()?, figure()?])
    }

    async fn line(&mut self, start: &str, limit: Duration) -> anyhow::Result<(Instant, String)> {
        let find = async {
            while let Some(line) = self.lines.next_line().await? {
                if line.starts_with(start) {
                    return Ok((Instant::now(), line));
                }
                if line.starts_with("wrong") {
                    bail!("the workload says: {line}");
                }
            }
            bail!("the program has ended before it said {start:?}")
        };
        tokio::time::timeout(limit, find)
            .await
            .with_context(|| format!("no {start:?} within {limit:?}"))?
    }

    pub(super) async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .context("the program's standard input is closed")?;
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .context("write to the program")
    }

    /// Waits for its end.
    pub(super) async fn end(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let ended = async {
            // Whoever does not read what a program says may block it.
            while let Ok(Some(_)) = self.lines.next_line().await {}
            self.child.wait().await
        };
        let ended = tokio::time::timeout(limit, ended)
            .await
            .context("the program does not end")?;
        ended.context("wait for the program")
    }

    /// Ends it by SIGTERM.
    pub(super) async fn terminate(mut self) -> anyhow::Result<()> {
        kill_process(self.pid()?, Signal::TERM).context("end the program")?;
        drop(self.stdin.take());
        self.end(END_LIMIT).await.map(drop)
    }
}
