//! The other processes of the program: each is the same program with its share of the memory.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::SyncSender,
    thread,
};

use anyhow::Context as _;

use super::{Answer, Shape, Told};

/// Child processes; they end with this one, since their standard input does.
#[derive(Debug, Default)]
pub(super) struct Children {
    all: Vec<(Child, ChildStdin)>,
}

impl Children {
    pub(super) fn start(shape: &Shape, report: &SyncSender<Told>) -> anyhow::Result<Self> {
        let own = shape.of_one_process();
        let program = std::env::current_exe().context("find this program")?;
        let mut children = Self::default();
        for _ in 1..shape.processes {
            let mut child = Command::new(&program)
                .args(own.arguments())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("start a process")?;
            let output = child
                .stdout
                .take()
                .context("the child has standard output")?;
            let input = child.stdin.take().context("the child has standard input")?;
            let report = report.clone();
            thread::Builder::new()
                .name("child".to_owned())
                .spawn(move || {
                    for line in BufReader::new(output).lines() {
                        let told = match line.as_deref().unwrap_or("wrong: unreadable") {
                            "ready" => Told::Ready,
                            line if line.starts_with("tick") => continue,
                            line => Answer::parse(line).map_or_else(
                                || Told::Wrong(format!("a child says: {line}")),
                                Told::Answer,
                            ),
                        };
                        if report.send(told).is_err() {
                            return;
                        }
                    }
                    // Nobody listens when the program is ending already.
                    drop(report.send(Told::Wrong("a child has ended".to_owned())));
                })
                .context("start a thread")?;
            children.all.push((child, input));
        }
        Ok(children)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn tell(&mut self, command: &str) {
        for (_, input) in &mut self.all {
            // A child that has ended is found out by its reader.
            drop(writeln!(input, "{command}"));
        }
    }
}
