//! One test program, from one node to another.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use super::{
    program::Program,
    support::{Hold, HoldOptions, Node, c_program, eventually},
};

/// Longest time for a start, an evacuation or a restore.
const SOON: Duration = Duration::from_secs(60);

/// Longest time until the verdict; the program that keeps the test gives up before.
const CHECK_LIMIT: Duration = Duration::from_secs(90);

/// How long a program that changes all the time runs before it is moved.
const TRANSITION: Duration = Duration::from_millis(500);

/// Exit status of `lifeboat run` after an evacuation.
const EVACUATED: i32 = 75;

/// Exit status of the keeper when the test program did not start.
const DID_NOT_START: i32 = 3;

/// Users and groups that the programs expect to become.
const USERS: [&str; 3] = [
    "ZDTM_UID=18943",
    "ZDTM_GID=58467",
    "ZDTM_GROUPS=27495 48244",
];

/// Threads of programs that make many.
const THREADS: &str = "ZDTM_THREAD_BOMB=5";

/// `CAP_SYS_RESOURCE` of capabilities(7).
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// What became of a program.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It found nothing wrong.
    Passed,
    /// It does not start here: something of the machine is missing.
    NotStarted(String),
    /// It failed, or could not be moved.
    Failed(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::NotStarted(why) => write!(f, "did not start ({why})"),
            Self::Failed(why) => write!(f, "FAILED ({why})"),
        }
    }
}

/// A move.
#[derive(Debug)]
pub(crate) struct Journey<'a> {
    program: &'a Program,
    workload: String,
    from: &'a Node,
    to: &'a Node,
}

impl<'a> Journey<'a> {
    /// From one node to the other.
    pub(crate) fn new(program: &'a Program, from: &'a Node, to: &'a Node) -> Self {
        Self {
            workload: program.workload(),
            program,
            from,
            to,
        }
    }

    /// Goes there. Never panics: the others are still to be run.
    pub(crate) fn run(&self) -> Verdict {
        let folder = tempfile::Builder::new().prefix("zdtm-").tempdir().unwrap();
        let gone = catch_unwind(AssertUnwindSafe(|| self.go(folder.path())));
        gone.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Verdict::Failed(text.unwrap_or_else(|| "panicked".to_owned()))
        })
    }

    fn go(&self, folder: &Path) -> Verdict {
        // The programs become another user and write there.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        let name = self.program.file_name();
        fs::copy(self.program.path(), folder.join(name)).unwrap();
        let argv = self.argv(folder);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();

        let mut first = self.hold(self.from, folder, &argv);
        if let Err(status) = ready(&mut first) {
            let said = format!("{} {}", first.lines().join(" "), first.said());
            return if status == DID_NOT_START {
                Verdict::NotStarted(said)
            } else {
                Verdict::Failed(format!("start: status {status}: {said}"))
            };
        }
        self.from.wait_for_state(&self.workload, "running", SOON);
        if self.program.is_in_transition() {
            let since = Instant::now();
            eventually("it changes", SOON, || {
                (since.elapsed() >= TRANSITION).then_some(())
            });
        }
        let result = self.from.json(&["evacuate", &self.workload]);
        if result["outcome"] != "evacuated" {
            return Verdict::Failed(format!("evacuate: {}", result["error"]));
        }
        let (status, _) = first.wait_for_end(SOON);
        if status != EVACUATED {
            return Verdict::Failed(format!("first hold: status {status}: {}", first.said()));
        }
        if self.program.takes_its_files() {
            fs::remove_dir_all(folder).unwrap();
        }
        self.arrive(folder, &argv)
    }

    fn arrive(&self, folder: &Path, argv: &[&str]) -> Verdict {
        let mut second = self.hold(self.to, folder, argv);
        let end = eventually("it is restored", SOON, || {
            let state = self.to.listed(&self.workload);
            let runs = state.is_some_and(|state| state["state"] == "running");
            second.ended().map(Some).or(runs.then_some(None))
        });
        if let Some(status) = end {
            return Verdict::Failed(format!("restore: status {status}: {}", second.said()));
        }
        second.write("go\n");
        let (status, lines) = second.wait_for_end(CHECK_LIMIT);
        let last = lines.last().map_or("no verdict", String::as_str);
        if status == 0 && last.split_whitespace().any(|word| word == "PASS") {
            Verdict::Passed
        } else {
            Verdict::Failed(format!("status {status}: {last}"))
        }
    }

    fn hold(&self, node: &Node, folder: &Path, argv: &[&str]) -> Hold {
        let folder = folder.display().to_string();
        let mut arguments = vec!["--require-daemon", "--tcp", self.program.tcp()];
        if self.program.takes_its_files() {
            arguments.extend(["--preserve", &folder]);
        }
        let options = HoldOptions {
            arguments: &arguments,
            stdin: true,
            ..HoldOptions::default()
        };
        Hold::start_with(node, &self.workload, &options, argv)
    }

    /// The keeper, with the program in its environment.
    fn argv(&self, folder: &Path) -> Vec<String> {
        let mut argv = vec!["env".to_owned()];
        // Without CAP_SYS_RESOURCE, CRIU may not read the limits of another user's process.
        if !self.program.stays_root() && may(CAP_SYS_RESOURCE) {
            argv.extend(USERS.map(str::to_owned));
        }
        if self.program.is_in_transition() {
            argv.push(THREADS.to_owned());
        }
        argv.push(c_program("zdtm_keeper", &["-static"]));
        argv.push(folder.display().to_string());
        argv.push(self.program.file_name().to_owned());
        argv.extend(self.program.command());
        argv
    }
}

/// Waits until the keeper says so; its status if it has ended.
fn ready(hold: &mut Hold) -> Result<(), i32> {
    eventually("the program is ready", SOON, || {
        let says = hold.lines().iter().any(|line| line == "ready");
        let ended = hold.ended();
        says.then_some(Ok(())).or(ended.map(Err))
    })
}

/// Whether this process has a capability.
fn may(capability: u64) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    effective & capability != 0
}
