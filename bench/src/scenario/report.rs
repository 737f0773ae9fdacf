//! Tables for people.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use bytesize::ByteSize;
use serde::Serialize;
use serde_json::{Value, json};

/// A table with a title for each column.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(titles: &[&str]) -> Self {
        Self {
            rows: vec![titles.iter().map(ToString::to_string).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(String::len)
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // The first column is words, the others are numbers.
                text.push_str(&match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("  {cell:>width$}"),
                });
            }
            text.push('\n');
        }
        text
    }
}

/// Something that is to hold.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    /// In words.
    what: String,
    /// What was measured.
    value: f64,
    /// What it must not exceed, or not fall below.
    bound: f64,
    /// Whether larger is better.
    at_least: bool,
    /// Whether it holds.
    ok: bool,
}

impl Check {
    pub(super) fn at_most(what: impl Into<String>, value: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            value,
            bound,
            at_least: false,
            ok: value <= bound,
        }
    }

    pub(super) fn at_least(what: impl Into<String>, value: f64, bound: f64) -> Self {
        Self {
            at_least: true,
            ok: value >= bound,
            ..Self::at_most(what, value, bound)
        }
    }
}

/// Figures as bars, for `report`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plot {
    title: String,
    unit: &'static str,
    bars: Vec<(String, f64)>,
}

impl Plot {
    pub(super) fn new(
        title: impl Into<String>,
        unit: &'static str,
        bars: impl IntoIterator<Item = (String, f64)>,
    ) -> Self {
        Self {
            title: title.into(),
            unit,
            bars: bars.into_iter().collect(),
        }
    }
}

/// What a scenario has found.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Its name.
    pub scenario: &'static str,
    /// For people.
    pub table: Table,
    /// For programs: an object.
    pub figures: Value,
    /// What is to hold.
    pub checks: Vec<Check>,
    /// To be drawn.
    pub plots: Vec<Plot>,
}

impl Outcome {
    /// Prints both forms: the table on standard error, the line on standard output and at the end of
    /// `file`.
    #[expect(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "this is the result"
    )]
    pub(super) fn print(self, store: &str, file: Option<&Path>) -> anyhow::Result<()> {
        eprint!("{}", self.table.render());
        for check in &self.checks {
            let (sign, verdict) = (
                if check.at_least {
                    "at least"
                } else {
                    "at most"
                },
                if check.ok { "holds" } else { "MISSED" },
            );
            let (what, value, bound) = (&check.what, check.value, check.bound);
            eprintln!("{verdict}: {what}: {value:.3}, {sign} {bound}");
        }
        let line = self.line(store)?;
        println!("{line}");
        if let Some(path) = file {
            let file = File::options().create(true).append(true).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{line}"));
            written.with_context(|| format!("write to {}", path.display()))?;
        }
        Ok(())
    }

    fn line(self, store: &str) -> anyhow::Result<String> {
        let Value::Object(mut line) = self.figures else {
            anyhow::bail!("figures have names");
        };
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load
            .split(' ')
            .next()
            .and_then(|one| one.parse::<f64>().ok());
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let about = [
            ("scenario", json!(self.scenario)),
            ("store", json!(store)),
            ("at_unix_s", json!(since.as_secs())),
            ("load_average", json!(load)),
            (
                "processors",
                json!(std::thread::available_parallelism().map_or(0, usize::from)),
            ),
            ("checks", json!(self.checks)),
            ("plots", json!(self.plots)),
        ];
        line.extend(about.map(|(name, value)| (name.to_owned(), value)));
        Ok(serde_json::to_string(&Value::Object(line))?)
    }
}

/// A ratio; of nothing, as of one.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
pub(super) fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other.max(1) as f64
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A time for people.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// The middle one of some figures; the lower one of two.
pub(super) fn median(mut figures: Vec<u64>) -> u64 {
    figures.sort_unstable();
    figures
        .get(figures.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3, 1, 2]), 2);
        assert_eq!(median(vec![4, 1]), 1);
        assert_eq!(median(vec![]), 0);
    }

    #[test]
    fn numbers_are_set_to_the_right() {
        let mut table = Table::new(&["", "a"]);
        table.row(["long".to_owned(), "1".to_owned()]);
        table.row(["x".to_owned(), "22".to_owned()]);
        assert_eq!(table.render(), "       a\nlong   1\nx     22\n");
    }
}
