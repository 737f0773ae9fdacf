//! The move by what comes with Linux: `criu dump` to tmpfs, `tar | zstd -1 -T0`, upload; and back.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::{CWD, Mode},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Bench, lifeboat::millis, moves::Move, node::LOOK_INTERVAL, transfer::Transfer};
use crate::workload::Shape;

/// Where CRIU's images go: memory, as for everybody who is in a hurry.
const TMPFS: &str = "/dev/shm";

/// How long a step may take.
pub(super) const LIMIT: Duration = Duration::from_secs(1800);

/// A program that CRIU can take away: files instead of pipes, a session of its own.
pub(super) struct Target {
    pub(super) pid: Pid,
    folder: PathBuf,
    control: File,
    seen: usize,
}

impl Target {
    pub(super) async fn start(folder: &Path, shape: &Shape) -> anyhow::Result<(Self, Child)> {
        let fifo = folder.join("control");
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).context("make a fifo")?;
        // Open for writing too, so that neither side ever sees its end.
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&fifo)
            .context("open a fifo")?;
        let mut command = Command::new("setsid");
        shape.command_line(&mut command)?;
        let child = command
            .stdin(control.try_clone().context("share the fifo")?)
            .stdout(File::create(folder.join("out")).context("make a file")?)
            .stderr(File::create(folder.join("err")).context("make a file")?)
            .spawn()
            .context("start the workload")?;
        // It is not a leader of its process group, so setsid does not fork.
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let pid = pid.context("the workload has ended")?;
        let mut target = Self {
            pid,
            folder: folder.to_owned(),
            control,
            seen: 0,
        };
        target.wait_for("ready").await?;
        Ok((target, child))
    }

    /// Waits for a line that begins with `start` after what was seen before.
    async fn wait_for(&mut self, start: &str) -> anyhow::Result<Instant> {
        let end = Instant::now() + LIMIT;
        loop {
            let text =
                std::fs::read_to_string(self.folder.join("out")).context("read the output")?;
            let new = text.get(self.seen..).unwrap_or("");
            if new.lines().any(|line| line.starts_with(start)) {
                self.seen = text.len();
                return Ok(Instant::now());
            }
            if new.contains("wrong") || Instant::now() > end {
                bail!("the workload does not say {start:?} but {new:?}");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What was written so far does not count any more.
    fn forget(&mut self) -> anyhow::Result<()> {
        let size = std::fs::metadata(self.folder.join("out"))
            .context("look at the output")?
            .len();
        self.seen = usize::try_from(size)?;
        Ok(())
    }
}

pub(super) async fn go(bench: &Bench, shape: &Shape, round: u16) -> anyhow::Result<Move> {
    let folder = bench.path().join(format!("stock{round}"));
    std::fs::create_dir(&folder).context("make a folder")?;
    let (mut target, child) = Target::start(&folder, shape).await?;
    let name = format!("{}-{round}", std::process::id());
    let transfer = Transfer::open(&bench.store, name).await?;
    let criu = bench.setting.criu.join("bin/criu");
    let mut one = Move::default();

    let began = Instant::now();
    let images = images_folder()?;
    dump(&criu, target.pid, images.path(), &[]).await?;
    one.freeze_ms = millis(began.elapsed());
    let (parts, sent) = pack(&transfer, images.path()).await?;
    one.safe_ms = millis(began.elapsed());
    one.uploaded_bytes = sent;
    // As the new machine has it: nothing.
    drop(images);
    reap(child).await?;
    target.forget()?;

    let began = Instant::now();
    let images = images_folder()?;
    unpack(&transfer, parts, images.path()).await?;
    restore(&criu, images.path()).await?;
    let alive = target.wait_for("tick").await?;
    target
        .control
        .write_all(b"verify\n")
        .context("write to the workload")?;
    let verified = target.wait_for("verified").await?;
    one.alive_ms = millis(alive - began);
    one.verified_ms = millis(verified - began);
    kill_process(target.pid, Signal::KILL).context("end the workload")?;
    transfer.delete(parts).await?;
    Ok(one)
}

/// Only the way to the store.
pub(super) async fn leave(bench: &Bench, shape: &Shape, name: &str) -> anyhow::Result<Move> {
    let folder = bench.path().join(name);
    std::fs::create_dir(&folder).context("make a folder")?;
    let (target, child) = Target::start(&folder, shape).await?;
    let transfer = Transfer::open(&bench.store, name.to_owned()).await?;
    let criu = bench.setting.criu.join("bin/criu");
    let began = Instant::now();
    let images = images_folder()?;
    dump(&criu, target.pid, images.path(), &[]).await?;
    let freeze_ms = millis(began.elapsed());
    let (parts, uploaded_bytes) = pack(&transfer, images.path()).await?;
    let safe_ms = millis(began.elapsed());
    reap(child).await?;
    transfer.delete(parts).await?;
    Ok(Move {
        freeze_ms,
        safe_ms,
        uploaded_bytes,
        ..Move::default()
    })
}

pub(super) fn images_folder() -> anyhow::Result<TempDir> {
    let made = tempfile::Builder::new()
        .prefix("lifeboat-bench-")
        .tempdir_in(TMPFS);
    made.context("make a folder in memory")
}

pub(super) async fn dump(
    criu: &Path,
    pid: Pid,
    images: &Path,
    more: &[&str],
) -> anyhow::Result<()> {
    let mut command = Command::new(criu);
    command.args([
        "dump",
        "-v1",
        "-o",
        "log",
        "-t",
        &pid.as_raw_nonzero().to_string(),
    ]);
    run(command.args(more).arg("-D").arg(images), images).await
}

pub(super) async fn restore(criu: &Path, images: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(criu);
    command.args(["restore", "-v1", "-o", "log", "--restore-detached"]);
    run(command.arg("-D").arg(images), images).await
}

async fn run(command: &mut Command, images: &Path) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .await;
    if !status.context("run criu")?.success() {
        let log = std::fs::read_to_string(images.join("log")).unwrap_or_default();
        bail!("criu failed: {log}");
    }
    Ok(())
}

pub(super) async fn pack(transfer: &Transfer, images: &Path) -> anyhow::Result<(usize, u64)> {
    let script = "tar -c -C \"$1\" . | zstd -q -1 -T0";
    let mut child = shell(script, images)
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let output = child.stdout.take().context("tar has standard output")?;
    let sent = transfer.upload(output).await?;
    anyhow::ensure!(child.wait().await?.success(), "tar or zstd failed");
    Ok(sent)
}

pub(super) async fn unpack(transfer: &Transfer, parts: usize, images: &Path) -> anyhow::Result<()> {
    let script = "zstd -q -d | tar -x -C \"$1\"";
    let mut child = shell(script, images)
        .stdin(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let input = child.stdin.take().context("zstd has standard input")?;
    transfer.download(parts, input).await?;
    anyhow::ensure!(child.wait().await?.success(), "tar or zstd failed");
    Ok(())
}

fn shell(script: &str, argument: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("bash");
    command
        .args(["-o", "pipefail", "-c", script, "-"])
        .arg(argument.as_ref());
    command.stdin(Stdio::null());
    command
}

/// The process that CRIU has killed must be gone before its PID can be taken again.
pub(super) async fn reap(mut child: Child) -> anyhow::Result<()> {
    let status = tokio::time::timeout(LIMIT, child.wait()).await??;
    anyhow::ensure!(
        status.signal() == Some(9),
        "the workload has ended by itself: {status}"
    );
    Ok(())
}
