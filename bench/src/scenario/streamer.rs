//! The way to the store by `criu dump --stream`: criu-image-streamer, zstd and the upload are joined by
//! pipes, and nothing is staged anywhere.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::Context as _;
use tokio::process::Command;

use super::{
    Bench,
    lifeboat::millis,
    moves::Move,
    node::LOOK_INTERVAL,
    stock::{self, LIMIT, Target},
    transfer::Transfer,
};
use crate::workload::Shape;

/// The program, as its authors call it.
const PROGRAM: &str = "criu-image-streamer";

/// The socket that it makes for CRIU in the images' folder.
const SOCKET: &str = "streamer-capture.sock";

/// Where the program is, if it is installed.
fn find() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&folders).map(|folder| folder.join(PROGRAM));
    all.find(|path| path.is_file())
}

/// Measures it; `None` if it is not installed.
pub(super) async fn leave(
    bench: &Bench,
    shape: &Shape,
    name: &str,
) -> anyhow::Result<Option<Move>> {
    let Some(streamer) = find() else {
        return Ok(None);
    };
    let folder = bench.path().join(name);
    std::fs::create_dir(&folder).context("make a folder")?;
    let (target, child) = Target::start(&folder, shape).await?;
    let transfer = Transfer::open(&bench.store, name.to_owned()).await?;
    let images = stock::images_folder()?;
    let began = Instant::now();
    let script = "\"$1\" --images-dir \"$2\" capture 2>\"$2/streamer.log\" | zstd -q -1 -T0";
    let mut pipe = Command::new("bash");
    pipe.args(["-o", "pipefail", "-c", script, "-"]);
    let mut pipe = pipe
        .arg(streamer)
        .arg(images.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the streamer")?;
    let output = pipe.stdout.take().context("zstd has standard output")?;
    let dump = async {
        wait_for(&images.path().join(SOCKET)).await?;
        let criu = bench.setting.criu.join("bin/criu");
        stock::dump(&criu, target.pid, images.path(), &["--stream"]).await?;
        anyhow::Ok(millis(began.elapsed()))
    };
    let (freeze_ms, (parts, uploaded_bytes)) = tokio::try_join!(dump, transfer.upload(output))?;
    anyhow::ensure!(pipe.wait().await?.success(), "the streamer or zstd failed");
    let safe_ms = millis(began.elapsed());
    stock::reap(child).await?;
    transfer.delete(parts).await?;
    Ok(Some(Move {
        freeze_ms,
        safe_ms,
        uploaded_bytes,
        ..Move::default()
    }))
}

async fn wait_for(path: &Path) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    while !path.exists() {
        anyhow::ensure!(Instant::now() < end, "{} does not appear", path.display());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}
