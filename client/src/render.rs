//! Results as people see them: tables, sizes, times.

use bytesize::ByteSize;

/// Columns that are as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<Header>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Header {
    title: &'static str,
    right: bool,
}

impl Table {
    /// A table. Titles that begin with `>` are of columns of numbers, set to the right.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let header = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => Header { title, right: true },
            None => Header {
                title,
                right: false,
            },
        };
        Self {
            headers: titles.iter().map(header).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, with a line for each row.
    pub(crate) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let title = self.headers[column].title.chars().count();
                cells
                    .map(|cell| cell.chars().count())
                    .fold(title, usize::max)
            })
            .collect();
        let titles: Vec<String> = self
            .headers
            .iter()
            .map(|header| header.title.to_owned())
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, header), width) in row.iter().zip(&self.headers).zip(&widths) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if header.right {
                    (&*pad, "")
                } else {
                    ("", &*pad)
                };
                line.extend([before, cell, after, "  "]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Lines of `name: value`, with the values below each other.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let pad = " ".repeat(width - name.chars().count());
        text.extend([name, ":", &pad, " ", value, "\n"]);
    }
    text
}

/// A size, for example `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A duration, for example `320 ms`, `1.4 s` or `2 min 05 s`.
pub(crate) fn duration(milliseconds: i64) -> String {
    let sign = if milliseconds < 0 { "-" } else { "" };
    let ms = milliseconds.unsigned_abs();
    let (minutes, seconds, tenths) = (ms / 60_000, ms / 1000 % 60, ms / 100 % 10);
    match ms {
        0..1000 => format!("{sign}{ms} ms"),
        1000..60_000 => format!("{sign}{seconds}.{tenths} s"),
        _ => format!("{sign}{minutes} min {seconds:02} s"),
    }
}

/// A text, or a dash for none.
pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_blanks_at_their_end() {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(["a".into(), "1 B".into(), "x".into()]);
        table.row(["longer".into(), "100 B".into(), String::new()]);
        let expected = "NAME     SIZE  NOTE\na         1 B  x\nlonger  100 B\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1449, "1.4 s"),
            (59_999, "59.9 s"),
            (125_000, "2 min 05 s"),
            (-1500, "-1.5 s"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(duration(milliseconds), text);
        }
    }
}
