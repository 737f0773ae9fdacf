//! CRIU's log, turned into one clear sentence and the few lines that matter.

use std::fmt;

/// What CRIU cannot do, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// A process uses io_uring.
    IoUring,
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
