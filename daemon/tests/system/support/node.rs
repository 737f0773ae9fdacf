//! A node: one daemon with a state directory and a socket of its own.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{TestStore, eventually};

/// Longest time that a daemon may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Longest time that a daemon may take to drain.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// Name of a node's configuration file.
const CONFIG: &str = "lifeboatd.toml";

/// What is special about a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeOptions<'a> {
    /// Lines of its configuration file.
    pub config: &'a str,
    /// The daemon is killed at this place (see `lifeboatd::observe::failpoint`).
    pub dies_at: &'a str,
    /// What goes wrong with its store (see `lifeboat_store::faulty`).
    pub faults: &'a str,
    /// The network namespace that it and its holds are in, if not the test's.
    pub network: Option<&'a str>,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    folder: tempfile::TempDir,
    url: String,
    environment: Vec<(String, String)>,
    network: Option<String>,
    daemon: Option<Child>,
}

impl Node {
    /// Starts a daemon called `name` on `store`.
    pub(crate) fn start(name: &str, store: &TestStore) -> Self {
        Self::start_with(name, store, NodeOptions::default())
    }

    /// Starts a daemon with options.
    pub(crate) fn start_with(name: &str, store: &TestStore, options: NodeOptions<'_>) -> Self {
        let folder = tempfile::Builder::new().prefix("lb-").tempdir().unwrap();
        open_to_all(folder.path());
        // What is committed is what was frozen, whatever the test is about.
        let audit = if options.config.contains("[save]") || !options.faults.is_empty() {
            ""
        } else {
            "\n[save]\naudit = true\n"
        };
        let config = format!("{}{audit}", options.config);
        std::fs::write(folder.path().join(CONFIG), config).unwrap();
        let (url, mut environment) = if options.faults.is_empty() {
            (store.url().to_owned(), store.environment().to_vec())
        } else {
            store.with_faults(options.faults)
        };
        if !options.dies_at.is_empty() {
            environment.push(("LIFEBOAT_ALLOW_FAULTS".to_owned(), "1".to_owned()));
            environment.push(("LIFEBOAT_FAILPOINT".to_owned(), options.dies_at.to_owned()));
        }
        let mut node = Self {
            name: name.to_owned(),
            folder,
            url,
            environment,
            network: options.network.map(str::to_owned),
            daemon: None,
        };
        node.launch();
        node
    }

    /// Starts the daemon again on the same state, on `store`, without faults.
    pub(crate) fn revive(&mut self, store: &TestStore) {
        self.restart(store.url(), store.environment());
    }

    /// Starts the daemon again on the same state, on another store.
    pub(crate) fn restart(&mut self, url: &str, environment: &[(String, String)]) {
        self.kill();
        self.url = url.to_owned();
        self.environment = environment.to_vec();
        self.launch();
    }

    fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("daemon.log"))
            .unwrap();
        let daemon = inside(self.network.as_deref(), Command::new(program("lifeboatd")))
            .args([
                "--store",
                &self.url,
                "--node",
                &self.name,
                "--log",
                "info,lifeboatd=debug",
            ])
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(self.folder.path().join("state"))
            .arg("--config")
            .arg(self.folder.path().join(CONFIG))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        eventually("the daemon answers", START_LIMIT, || {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the daemon ended: {ended:?}\n{}",
                self.log()
            );
            self.run(&["status"]).status.success().then_some(())
        });
        open_to_all(&self.socket());
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("lb.sock")
    }

    /// The network namespace that it is in, if not the test's.
    pub(super) fn network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// A folder of the test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether the daemon runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|daemon| daemon.try_wait().unwrap().is_none())
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn wait_for_death(&mut self, limit: Duration) {
        eventually("the daemon dies", limit, || {
            (!self.is_running()).then_some(())
        });
        self.daemon = None;
    }

    /// Kills the daemon.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// What the daemon has written.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }

    /// Runs the command line against this node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_as(None, arguments)
    }

    /// Runs the command line against this node as another user.
    pub(crate) fn run_as(&self, user: Option<&str>, arguments: &[&str]) -> Output {
        as_user(user, &program("lifeboat"))
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs the command line and parses what it prints: one JSON value, or one for each line.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--output", "json"], arguments].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{arguments:?}: {error}\nstdout: {}\nstderr: {}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// What `list` shows of a workload.
    #[track_caller]
    pub(crate) fn listed(&self, workload: &str) -> Option<Value> {
        let list = self.json(&["list"]);
        let all = list.as_array().expect("the list is an array");
        all.iter().find(|one| one["name"] == workload).cloned()
    }

    /// Waits until a workload is in `state`.
    #[track_caller]
    pub(crate) fn wait_for_state(&self, workload: &str, state: &str, limit: Duration) {
        let mut last = Value::Null;
        let end = std::time::Instant::now() + limit;
        eventually(
            &format!("{workload} is {state}"),
            limit + Duration::from_secs(1),
            || {
                last = self.listed(workload).unwrap_or_default();
                let late = std::time::Instant::now() > end;
                assert!(!late, "{workload} is not {state}: {last}\n{}", self.log());
                (last["state"] == state).then_some(())
            },
        );
    }

    /// Evacuates a workload and expects that to work.
    #[track_caller]
    pub(crate) fn evacuate(&self, workload: &str) -> Value {
        let result = self.json(&["evacuate", workload]);
        assert_eq!(result["outcome"], "evacuated", "{result}\n{}", self.log());
        result
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut stopped = true;
        if let Some(mut daemon) = self.daemon.take() {
            let pid = i32::try_from(daemon.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eventually("the daemon stops", STOP_LIMIT, || {
                    daemon.try_wait().unwrap()
                })
            }));
            stopped = ended.is_ok();
            if !stopped {
                drop(daemon.kill());
                drop(daemon.wait());
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of node {} ---\n{}", self.name, self.log());
        } else {
            // Whatever the test was about.
            assert!(stopped, "it did not stop when asked to\n{}", self.log());
            assert!(!self.log().contains("panicked"), "{}", self.log());
        }
    }
}

/// A program of the product, as built for this test.
pub(crate) fn program(name: &str) -> PathBuf {
    let folder = match std::env::var_os("LIFEBOAT_TEST_PREFIX") {
        Some(folder) => PathBuf::from(folder).join("bin"),
        None => Path::new(env!("CARGO_BIN_EXE_lifeboatd"))
            .parent()
            .unwrap()
            .to_owned(),
    };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there: `cargo build --workspace` makes it, deploy/test.sh installs it",
        path.display()
    );
    path
}

/// The same command in a network namespace.
pub(super) fn inside(network: Option<&str>, command: Command) -> Command {
    let Some(name) = network else { return command };
    let mut other = Command::new("nsenter");
    other.arg(format!("--net=/run/netns/{name}"));
    other.arg(command.get_program()).args(command.get_args());
    other
}

/// A command that runs `program` as another user: a name, or a number that need not have one.
pub(super) fn as_user(user: Option<&str>, program: &Path) -> Command {
    match user {
        None => Command::new(program),
        Some(number) if number.parse::<u32>().is_ok() => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", number, "--regid", number, "--clear-groups", "--"]);
            command.arg(program);
            command
        }
        Some(name) => {
            let mut command = Command::new("runuser");
            command.args(["-u", name, "--"]).arg(program);
            command
        }
    }
}

/// Lets every user in: the users of a test's workloads are not the test's own.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}
