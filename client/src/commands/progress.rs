//! Bars on standard error, if it is a terminal.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

const TEMPLATE: &str =
    "{prefix} {msg:10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {elapsed}";

/// One bar for each workload.
#[derive(Debug)]
pub(super) struct Bars {
    all: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
}

impl Bars {
    /// Bars, unless nobody would see them.
    pub(super) fn new() -> Self {
        let all = io::stderr().is_terminal().then(MultiProgress::new);
        Self {
            all,
            bars: BTreeMap::new(),
        }
    }

    /// Shows how far something is.
    pub(super) fn update(&mut self, name: &str, stage: &str, done: u64, total: u64) {
        let Some(all) = &self.all else { return };
        let bar = self.bars.entry(name.to_owned()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(total));
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar
        });
        bar.set_message(stage.to_owned());
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Takes a bar away.
    pub(super) fn finish(&mut self, name: &str) {
        if let Some(bar) = self.bars.remove(name) {
            bar.finish_and_clear();
        }
    }

    /// Runs something that prints, so that bars and lines do not mix.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.all {
            Some(all) => all.suspend(print),
            None => print(),
        }
    }
}
