//! What plain CRIU makes of a program, on this machine.

use std::{collections::BTreeMap, process::Command};

use super::program::{Collection, output, script};

/// The verdicts of plain CRIU on `names`: each begins with PASS, FAIL or SKIP.
#[track_caller]
pub(crate) fn verdicts(collection: &Collection, names: &[&str]) -> BTreeMap<String, String> {
    // Without names the script runs all.
    if names.is_empty() {
        return BTreeMap::new();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("baseline");
    output(
        Command::new(script())
            .arg("baseline")
            .arg(collection.folder())
            .arg(&file)
            .args(names),
    );
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter_map(verdict).collect()
}

/// `WORD NAME TIME REASON…`.
fn verdict(line: &str) -> Option<(String, String)> {
    let (word, rest) = line.split_once(' ')?;
    let (name, more) = rest.split_once(' ')?;
    Some((name.to_owned(), format!("{word} {more}")))
}
