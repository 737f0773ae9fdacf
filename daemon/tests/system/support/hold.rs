//! A hold: `lifeboat run` with its output collected.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use super::{Node, eventually, node::program};

/// How a hold is started.
#[derive(Debug, Default)]
pub(crate) struct HoldOptions<'a> {
    /// More arguments for `lifeboat run`.
    pub arguments: &'a [&'a str],
    /// Another user to run as: a name, or a number.
    pub user: Option<&'a str>,
    /// Give it standard input.
    pub stdin: bool,
}

/// A running hold.
#[derive(Debug)]
pub(crate) struct Hold {
    workload: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

/// Lines that a reader collects.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<(Mutex<Collected>, Condvar)>);

/// The lines, and whether these are all.
type Collected = (Vec<String>, bool);

impl Lines {
    fn collect(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                shared.0.0.lock().unwrap().0.push(line);
                shared.0.1.notify_all();
            }
            shared.0.0.lock().unwrap().1 = true;
            shared.0.1.notify_all();
        });
        lines
    }

    fn wait<T>(&self, limit: Duration, mut find: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        let mut state = self.0.0.lock().unwrap();
        loop {
            if let Some(found) = find(&state.0) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return None;
            }
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap().0.clone()
    }

    /// Waits until the writer has closed its end.
    fn finish(&self, limit: Duration) -> Vec<String> {
        let end = Instant::now() + limit;
        let mut state = self.0.0.lock().unwrap();
        while !state.1 && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
        state.0.clone()
    }
}

impl Hold {
    /// Starts `argv` as `workload` on `node`.
    pub(crate) fn start(node: &Node, workload: &str, argv: &[&str]) -> Self {
        Self::start_with(node, workload, &HoldOptions::default(), argv)
    }

    /// Starts `argv` as `workload` on `node`, with options.
    pub(crate) fn start_with(
        node: &Node,
        workload: &str,
        options: &HoldOptions<'_>,
        argv: &[&str],
    ) -> Self {
        let command = super::node::as_user(options.user, &program("lifeboat"));
        let mut command = super::node::inside(node.network(), command);
        command.arg("--socket").arg(node.socket());
        command
            .args(["run", "--workload", workload])
            .args(options.arguments)
            .arg("--")
            .args(argv);
        command.current_dir("/");
        let stdin = if options.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            workload: workload.to_owned(),
            stdin: child.stdin.take(),
            stdout: Lines::collect(child.stdout.take().unwrap()),
            stderr: Lines::collect(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Waits for a line that `accept`s, and returns it.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, limit: Duration, accept: impl Fn(&str) -> bool) -> String {
        let found = self.stdout.wait(limit, |lines| {
            lines.iter().find(|line| accept(line)).cloned()
        });
        found.unwrap_or_else(|| self.fail("no such line"))
    }

    /// Waits until there are `count` lines, and returns them.
    #[track_caller]
    pub(crate) fn wait_for_lines(&self, count: usize, limit: Duration) -> Vec<String> {
        let found = self.stdout.wait(limit, |lines| {
            (lines.len() >= count).then(|| lines.to_vec())
        });
        found.unwrap_or_else(|| self.fail(&format!("fewer than {count} lines")))
    }

    /// Waits until there are `more` lines than now: it runs.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, more: usize, limit: Duration) -> Vec<String> {
        self.wait_for_lines(self.stdout.all().len() + more, limit)
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// What it says to people.
    pub(crate) fn said(&self) -> String {
        self.stderr.all().join("\n")
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) {
        self.stdin
            .as_mut()
            .expect("it was started with standard input")
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Waits for its end; returns its status and all its lines.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> (i32, Vec<String>) {
        let end = Instant::now() + limit;
        let what = format!("hold of {} ends", self.workload);
        let status = eventually(&what, limit * 2, || {
            let status = self.child.try_wait().unwrap();
            if status.is_none() && Instant::now() > end {
                self.fail("it does not end");
            }
            status
        });
        let lines = self.stdout.finish(Duration::from_secs(5));
        self.stderr.finish(Duration::from_secs(5));
        (status.code().unwrap_or(-1), lines)
    }

    /// Is killed, as its machine would be, and returns all of its lines.
    pub(crate) fn die(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stdout.finish(Duration::from_secs(10))
    }

    /// Its status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().unwrap()?;
        Some(status.code().unwrap_or(-1))
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!(
            "{}: {what}\nstdout:\n{}\nstderr:\n{}",
            self.workload,
            self.stdout.all().join("\n"),
            self.said()
        )
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
