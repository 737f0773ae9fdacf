//! A file: whoever can write below the state directory can give a notice (drills, other clouds).
//!
//! When the file `notice` appears, the machine will go. Its content may be a duration, for example
//! `25s`; else the configured notice counts. The file is removed when it was acted on.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;

use super::{Kind, Notice, Watcher};
use crate::deadline::Deadline;

/// Time between looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Largest content that is read, in bytes.
const CONTENT_BYTES_MAX: u64 = 64;

#[derive(Debug)]
pub(super) struct NoticeFile {
    path: PathBuf,
    notice: Duration,
}

impl NoticeFile {
    pub(super) const fn new(path: PathBuf, notice: Duration) -> Self {
        Self { path, notice }
    }

    fn take(&self) -> Option<Duration> {
        let size = std::fs::metadata(&self.path).ok()?.len();
        let text = if size <= CONTENT_BYTES_MAX {
            std::fs::read_to_string(&self.path).unwrap_or_default()
        } else {
            String::new()
        };
        std::fs::remove_file(&self.path).ok()?;
        Some(humantime::parse_duration(text.trim()).unwrap_or(self.notice))
    }
}

#[async_trait]
impl Watcher for NoticeFile {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn next(&mut self) -> Notice {
        loop {
            if let Some(within) = self.take() {
                let deadline = Deadline::within(within);
                return Notice {
                    source: "file",
                    kind: Kind::Preemption,
                    deadline,
                };
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
