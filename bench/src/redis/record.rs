//! What a writer has done: one line for each write, `a N` acknowledged, `t N` tried without an answer.
//!
//! A write without an answer may have happened or not. Lines are in the order of the writes; the file
//! is flushed whenever the connection breaks and at the end.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};

use super::content::WRITTEN_KEYS;

/// The record of a writer that runs.
#[derive(Debug)]
pub(super) struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
        })
    }

    pub(super) fn acknowledged(&mut self, number: u64) -> std::io::Result<()> {
        writeln!(self.file, "a {number}")
    }

    pub(super) fn tried(&mut self, number: u64) -> std::io::Result<()> {
        writeln!(self.file, "t {number}")?;
        self.flush()
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// What must be found under a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// The last write that was acknowledged, if any.
    pub acknowledged: Option<u64>,
    /// The last one that was tried after it, if any: this may be there instead.
    pub tried: Option<u64>,
}

impl Expected {
    /// Whether `found` is right.
    pub(super) fn allows(self, found: Option<u64>) -> bool {
        match found {
            None => self.acknowledged.is_none(),
            Some(number) => Some(number) == self.acknowledged || Some(number) == self.tried,
        }
    }
}

/// What a writer left.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Number of acknowledged writes.
    pub acknowledged: u64,
    /// By the number of the key.
    pub keys: HashMap<u64, Expected>,
}

impl Recorded {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut recorded = Self::default();
        for line in BufReader::new(file).lines() {
            recorded.add(&line?)?;
        }
        Ok(recorded)
    }

    fn add(&mut self, line: &str) -> anyhow::Result<()> {
        let Some((kind, number)) = line.split_once(' ') else {
            bail!("not a record: {line:?}")
        };
        let number: u64 = number
            .parse()
            .with_context(|| format!("not a record: {line:?}"))?;
        let expected = self.keys.entry(number % WRITTEN_KEYS).or_default();
        match kind {
            "a" => {
                *expected = Expected {
                    acknowledged: Some(number),
                    tried: None,
                };
                self.acknowledged += 1;
            }
            "t" => expected.tried = Some(number),
            _ => bail!("not a record: {line:?}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(lines: &[String]) -> Recorded {
        let mut recorded = Recorded::default();
        for line in lines {
            recorded.add(line).unwrap();
        }
        recorded
    }

    #[test]
    fn the_last_acknowledged_write_must_be_there_or_a_later_try() {
        let later = WRITTEN_KEYS + 5;
        let lines = ["a 5".to_owned(), format!("t {later}")];
        let expected = recorded(&lines).keys[&5];
        assert!(expected.allows(Some(5)));
        assert!(expected.allows(Some(later)));
        assert!(!expected.allows(Some(later + WRITTEN_KEYS)));
        assert!(!expected.allows(None));
    }

    #[test]
    fn an_older_value_than_the_acknowledged_one_is_a_loss() {
        let lines = ["a 5".to_owned(), format!("a {}", WRITTEN_KEYS + 5)];
        assert!(!recorded(&lines).keys[&5].allows(Some(5)));
    }

    #[test]
    fn a_try_alone_may_be_there_or_not() {
        let expected = recorded(&["t 7".to_owned()]).keys[&7];
        assert!(expected.allows(None));
        assert!(expected.allows(Some(7)));
    }
}
