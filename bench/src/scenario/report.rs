//! Tables for people.

use bytesize::ByteSize;
use serde::Serialize;

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

/// Prints both forms of a result.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the result"
)]
pub(super) fn print(table: &Table, result: &impl Serialize) -> anyhow::Result<()> {
    eprint!("{}", table.render());
    println!("{}", serde_json::to_string(result)?);
    Ok(())
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
