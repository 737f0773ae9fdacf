//! CRIU's log, turned into one clear sentence and the few lines that matter.
//!
//! A log is read up to [`LOG_BYTES_MAX`] from its end and is not trusted: it contains names of the
//! workload's files. Control characters are replaced.

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// Most bytes of a log that are read.
pub const LOG_BYTES_MAX: u64 = 256 << 10;

/// Most lines that a summary quotes.
const LINES_MAX: usize = 3;

/// Longest quoted line, in characters.
const LINE_CHARS_MAX: usize = 240;

/// What CRIU cannot do, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// A process uses io_uring.
    IoUring,
}

impl Refusal {
    /// Whether it may be gone when the same is tried again soon.
    #[must_use]
    pub fn may_pass(self) -> bool {
        match self {
            Self::IoUring => false,
        }
    }
}

/// What a log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSummary {
    /// The known refusal, if it is one.
    pub refusal: Option<Refusal>,
    /// One sentence for people.
    pub sentence: String,
    /// The log's own lines that say so, at most a few.
    pub lines: Vec<String>,
    /// Whether CRIU itself says that it failed.
    pub failed: bool,
}

impl fmt::Display for LogSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        for line in &self.lines {
            write!(f, "; {line}")?;
        }
        Ok(())
    }
}

/// Summarises the log at `path`, and what CRIU said elsewhere.
pub(crate) fn summary(path: &Path, output: &str) -> LogSummary {
    let log = tail(path).unwrap_or_default();
    summarise(&log, output)
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn summarise(log: &str, output: &str) -> LogSummary {
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
    let failed = errors.iter().any(|line| line.contains("FAILED."));
    let telling = errors
        .iter()
        .copied()
        .filter(|line| !line.contains("FAILED."));
    let mut lines: Vec<String> = telling.take(LINES_MAX).map(clean).collect();
    if lines.is_empty() {
        lines = output
            .lines()
            .filter(|line| !line.is_empty())
            .take(LINES_MAX)
            .map(clean)
            .collect();
    }
    let sentence = if lines.is_empty() {
        "criu failed without saying why".to_owned()
    } else {
        "criu failed for a reason that is not in Lifeboat's table".to_owned()
    };
    LogSummary {
        refusal: None,
        sentence,
        lines,
        failed,
    }
}

fn clean(line: &str) -> String {
    line.chars()
        .take(LINE_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
