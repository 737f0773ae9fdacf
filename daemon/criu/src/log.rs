//! CRIU's log, turned into one clear sentence and the few lines that matter.
//!
//! A log is read up to [`LOG_BYTES_MAX`] from its end and is not trusted: it contains names of the
//! workload's files. Control characters are replaced.

mod refusal;

use std::{
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

pub use refusal::Refusal;

/// Most bytes of a log that are read.
pub const LOG_BYTES_MAX: u64 = 256 << 10;

/// Most lines that a summary quotes.
const LINES_MAX: usize = 3;

/// Longest quoted line, in characters.
const LINE_CHARS_MAX: usize = 240;

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

/// Lines that look like errors in every log of a machine that does not allow everything.
const HARMLESS: [&str; 1] = ["rlimit: Can't setup RLIMIT_NOFILE"];

fn summarise(log: &str, output: &str) -> LogSummary {
    let errors = || log.lines().filter(|line| is_error(line));
    let failed = errors().any(|line| line.contains("FAILED."));
    let telling: Vec<&str> = errors().filter(|line| !line.contains("FAILED.")).collect();

    // A warning may say more than the errors that follow from it.
    let known = log
        .lines()
        .chain(output.lines())
        .filter(|line| !is_harmless(line));
    let known = known.filter(|line| is_error(line) || line.contains("Warn"));
    let known = known.filter_map(|line| Some((Refusal::of(line)?, line)));
    // That CRIU lost its daemon follows from an abort, which follows from something else.
    let (after, cause): (Vec<_>, Vec<_>) = known.partition(|(known, _)| *known == Refusal::Aborted);
    let known = cause.into_iter().chain(after).next();

    let mut lines: Vec<String> = Vec::new();
    let said = output.lines().filter(|line| !line.trim().is_empty());
    for line in known
        .iter()
        .map(|(_, line)| *line)
        .chain(telling)
        .chain(said)
        .map(clean)
    {
        if lines.len() < LINES_MAX && !lines.contains(&line) {
            lines.push(line);
        }
    }
    let refusal = known.map(|(refusal, _)| refusal);
    let sentence = match refusal {
        Some(refusal) => refusal.sentence(),
        None if lines.is_empty() => "criu failed without saying why",
        None => "criu failed for a reason that Lifeboat does not know",
    };
    LogSummary {
        refusal,
        sentence: sentence.to_owned(),
        lines,
        failed,
    }
}

fn is_error(line: &str) -> bool {
    line.contains("Error (") && !is_harmless(line)
}

fn is_harmless(line: &str) -> bool {
    HARMLESS.iter().any(|words| line.contains(words))
}

fn clean(line: &str) -> String {
    line.chars()
        .take(LINE_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_known_refusal_is_one_sentence_and_its_line() {
        let log = "\
            (00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
            (00.02) Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[io_uring])\n\
            (00.03) Error (criu/cr-dump.c:1545): Dump files (pid: 7) failed with -1\n\
            (00.04) Error (criu/cr-dump.c:2135): Dumping FAILED.\n";
        let summary = summarise(log, "");
        assert_eq!(summary.refusal, Some(Refusal::IoUring));
        assert!(summary.failed);
        assert!(summary.lines[0].contains("io_uring"), "{summary}");
        assert_eq!(summary.lines.len(), 2, "{summary}");
        assert!(!Refusal::IoUring.may_pass());
    }

    #[test]
    fn the_cause_counts_and_not_that_criu_was_told_to_give_up() {
        let log = "\
            Error (criu/img-streamer.c:125): Failed to communicate with the image streamer: Broken pipe\n\
            Error (criu/cr-dump.c:668): Can't make VM id for 12\n";
        assert_eq!(
            summarise(log, "").refusal,
            Some(Refusal::SharedAddressSpace)
        );
    }

    #[test]
    fn what_is_not_known_is_quoted() {
        let summary = summarise("(00.1) Error (criu/x.c:1): Something new\n", "");
        assert_eq!(summary.refusal, None);
        assert!(summary.to_string().contains("Something new"), "{summary}");
        let summary = summarise("", "nsenter: cannot open /proc/1/fd/9: No such file\n");
        assert!(summary.to_string().contains("nsenter"), "{summary}");
        assert_eq!(summarise("", "").sentence, "criu failed without saying why");
    }

    proptest! {
        #[test]
        fn any_log_becomes_a_short_line(log in "(?s).{0,400}", output in "(?s).{0,100}") {
            let text = summarise(&log, &output).to_string();
            prop_assert!(text.chars().count() < 200 + LINES_MAX * (LINE_CHARS_MAX + 2));
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
