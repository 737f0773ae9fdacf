//! The workload's files, read and written by a process of the workload's user in its namespaces.
//!
//! The daemon itself never opens a path that a user or an image names.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::{describe::FrameStream, memory::CaptureError};
use crate::{service::identity::Caller, workload::namespaces::Namespaces};

/// Bytes moved at once.
const PIECE_BYTES: usize = 256 << 10;

/// Longest message of a failed step that is passed on, in bytes.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Longest time that a step may take to end after its stream has ended.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Who reads or writes files, and where.
#[derive(Debug)]
pub struct FileAccess<'a> {
    /// The workload's user.
    pub owner: &'a Caller,
    /// Mount and PID namespaces of the workload.
    pub namespaces: &'a Namespaces,
    /// The paths.
    pub paths: &'a [PathBuf],
    /// The program that has the steps: the daemon's own.
    pub program: &'a Path,
}

impl FileAccess<'_> {
    /// Reads the files into a stream.
    ///
    /// # Errors
    /// When a file cannot be read, or the pipeline was stopped.
    pub async fn archive(&self, out: &mut FrameStream) -> Result<(), CaptureError> {
        let mut child = self.start("files-archive", Stdio::null(), Stdio::piped())?;
        let mut stdout = child.stdout.take().expect("standard output is piped");
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = stdout
                .read(&mut piece)
                .await
                .map_err(|source| CaptureError::System {
                    what: "read the workload's files",
                    source,
                })?;
            if read == 0 {
                break;
            }
            out.write(&piece[..read]).await?;
        }
        end(child).await
    }

    /// Starts writing the files; feed the bytes to [`Extraction::write`].
    ///
    /// # Errors
    /// When the step cannot be started.
    pub fn extract(&self) -> Result<Extraction, CaptureError> {
        let mut child = self.start("files-extract", Stdio::piped(), Stdio::null())?;
        let stdin = child.stdin.take().expect("standard input is piped");
        Ok(Extraction { child, stdin })
    }

    fn start(&self, step: &str, stdin: Stdio, stdout: Stdio) -> Result<Child, CaptureError> {
        let mut command = Command::new("nsenter");
        let path = |namespace| Namespaces::path(namespace).display().to_string();
        command.arg(format!("--mount={}", path(&self.namespaces.mount)));
        // The workload's /proc shows processes of its own PID namespace only, and the step needs to
        // find itself there.
        command.arg(format!("--pid={}", path(&self.namespaces.pid)));
        command.arg("--").arg(self.program).arg(step);
        command.args([
            "--uid",
            &self.owner.uid.to_string(),
            "--gid",
            &self.owner.gid.to_string(),
        ]);
        if !self.owner.groups.is_empty() {
            let groups: Vec<String> = self.owner.groups.iter().map(u32::to_string).collect();
            command.args(["--groups", &groups.join(",")]);
        }
        command.arg("--").args(self.paths);
        command.env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        command.spawn().map_err(|source| CaptureError::System {
            what: "start the step that moves the workload's files",
            source,
        })
    }
}

/// Writes files.
#[derive(Debug)]
pub struct Extraction {
    child: Child,
    stdin: tokio::process::ChildStdin,
}

impl Extraction {
    /// The next bytes of the archive.
    ///
    /// # Errors
    /// When the step has failed: the reason is what [`Extraction::finish`] returns.
    pub async fn write(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.stdin.write_all(piece).await
    }

    /// Waits until all files are in place.
    ///
    /// # Errors
    /// When a file could not be written.
    pub async fn finish(self) -> Result<(), CaptureError> {
        drop(self.stdin);
        end(self.child).await
    }
}

async fn end(mut child: Child) -> Result<(), CaptureError> {
    let system = |what| move |source| CaptureError::System { what, source };
    let mut message = String::new();
    let stderr = child.stderr.take().expect("standard error is piped");
    let status = timeout(END_TIMEOUT, async {
        stderr
            .take(MESSAGE_BYTES_MAX)
            .read_to_string(&mut message)
            .await?;
        child.wait().await
    });
    let status = status
        .await
        .map_err(|_| CaptureError::Files {
            message: format!("not done after {END_TIMEOUT:?}"),
        })?
        .map_err(system("wait for the step that moves the workload's files"))?;
    let message = message.trim();
    if status.success() {
        for warning in message.lines() {
            tracing::warn!(warning, "the workload's files");
        }
        return Ok(());
    }
    let message = if message.is_empty() {
        status.to_string()
    } else {
        message.to_owned()
    };
    Err(CaptureError::Files { message })
}
