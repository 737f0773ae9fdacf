//! Real programs go off one node and on another as if nothing had happened.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::support::{Hold, HoldOptions, Node, TestStore, eventually};

const SOON: Duration = Duration::from_secs(30);

/// A port that nobody listens on at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Writes a source file into a folder and returns its path.
fn source(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Moves a program that prints numbered lines: `line(n)` is its n-th line, and none may be missing
/// or there twice.
fn move_counter(store: &TestStore, argv: &[&str], line: impl Fn(usize, &str) -> bool) -> Value {
    let (a, b) = (Node::start("a", store), Node::start("b", store));
    let mut first = Hold::start(&a, "counter", argv);
    first.wait_for_lines(3, SOON);
    let result = a.evacuate("counter");
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", first.said());
    let second = Hold::start(&b, "counter", argv);
    second.wait_for_lines(3, SOON);
    b.wait_for_state("counter", "running", SOON);
    second.wait_for_more(2, SOON);
    lines.extend(second.lines());
    for (number, text) in lines.iter().enumerate() {
        assert!(
            line(number, text),
            "line {number} is {text:?} in {lines:#?}"
        );
    }
    result
}

#[test]
fn a_shell_pipeline_loses_no_line_and_repeats_none() {
    let script = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.05; done \
                  | grep --line-buffered line | cat";
    let argv = ["sh", "-c", script];
    move_counter(&TestStore::folder(), &argv, |number, text| {
        text == format!("line {number}")
    });
}

#[test]
fn a_shell_pipeline_travels_through_the_real_server() {
    let script = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.05; done | cat";
    let argv = ["sh", "-c", script];
    move_counter(&TestStore::s3(), &argv, |number, text| {
        text == format!("line {number}")
    });
}

#[test]
fn python_multiprocessing_goes_on_in_step() {
    let folder = tempfile::tempdir().unwrap();
    let script = source(folder.path(), "mp.py", include_str!("programs/mp.py"));
    move_counter(
        &TestStore::folder(),
        &["python3", &script],
        |number, text| text == format!("step {}", number + 1),
    );
}

#[test]
fn node_keeps_its_timers_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let script = source(folder.path(), "n.js", include_str!("programs/n.js"));
    move_counter(&TestStore::folder(), &["node", &script], |number, text| {
        text == format!("tick {number} sum 1474560")
    });
}

#[test]
fn a_static_binary_needs_nothing_but_itself() {
    let folder = tempfile::tempdir().unwrap();
    let code = source(folder.path(), "s.c", include_str!("programs/counter.c"));
    let program = folder.path().join("counter").display().to_string();
    let built = Command::new("gcc")
        .args(["-static", "-O1", "-o", &program, &code])
        .status();
    assert!(built.unwrap().success(), "gcc makes the test program");
    move_counter(&TestStore::folder(), &[&program], |number, text| {
        text == format!("count {number}")
    });
}

#[test]
fn the_clock_of_a_java_program_does_not_jump() {
    let folder = tempfile::tempdir().unwrap();
    source(
        folder.path(),
        "Ticker.java",
        include_str!("programs/Ticker.java"),
    );
    let built = Command::new("javac")
        .arg("Ticker.java")
        .current_dir(folder.path())
        .status();
    assert!(built.unwrap().success(), "javac compiles the test program");
    let classes = folder.path().display().to_string();
    let argv = ["java", "-Xmx256m", "-cp", &classes, "Ticker"];
    let store = TestStore::folder();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let mut first = Hold::start(&a, "java", &argv);
    first.wait_for_lines(10, SOON);
    a.evacuate("java");
    let (status, mut lines) = first.wait_for_end(SOON);
    assert_eq!(status, 75, "{}", first.said());
    // Away for longer than the clock may jump.
    let away = std::time::Instant::now();
    eventually("some time passes", SOON, || {
        (away.elapsed() > Duration::from_secs(6)).then_some(())
    });
    let second = Hold::start(&b, "java", &argv);
    lines.extend(second.wait_for_lines(10, SOON));
    let mut timer_before = 0;
    for (number, line) in lines.iter().enumerate() {
        let words: Vec<u64> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        let [tick, gap_ms, timer, sum] = words[..] else {
            panic!("line {line:?}")
        };
        assert_eq!(tick, number as u64);
        assert!(
            gap_ms < 5_000,
            "the clock has jumped by {gap_ms} ms: {lines:#?}"
        );
        assert!(timer >= timer_before, "the timer went back: {lines:#?}");
        timer_before = timer;
        assert_eq!(sum, 2016, "memory has changed: {lines:#?}");
    }
    assert!(timer_before > 0, "the timer has never fired: {lines:#?}");
}

/// A connection that speaks redis's protocol.
struct Redis {
    reader: BufReader<TcpStream>,
}

impl Redis {
    fn connect(port: u16) -> Self {
        let stream = eventually("redis answers", SOON, || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            stream.write_all(b"PING\r\n").ok()?;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).ok()?;
            (line == "+PONG\r\n").then_some(stream)
        });
        Self {
            reader: BufReader::new(stream),
        }
    }

    fn send(&mut self, command: &str) -> String {
        let stream = self.reader.get_mut();
        stream.write_all(command.as_bytes()).unwrap();
        stream.write_all(b"\r\n").unwrap();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

fn redis_moves(store: &TestStore, mebibytes: u32) {
    let port = free_port();
    let text = port.to_string();
    let argv = [
        "redis-server",
        "--port",
        &text,
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ];
    let (a, b) = (Node::start("a", store), Node::start("b", store));
    let mut first = Hold::start(&a, "redis", &argv);
    let mut redis = Redis::connect(port);
    // Distinct values of 1 KiB, made by redis itself.
    assert_eq!(
        redis.send(&format!("DEBUG POPULATE {} key 1024", mebibytes * 1024)),
        "+OK"
    );
    let digest = redis.send("DEBUG DIGEST");
    assert!(digest.starts_with('+') && digest.len() == 41, "{digest}");
    let result = a.evacuate("redis");
    let memory = result["memory_bytes"].as_u64().unwrap();
    assert!(memory > u64::from(mebibytes) << 20, "{result}");
    assert_eq!(first.wait_for_end(SOON).0, 75);
    let _second = Hold::start(&b, "redis", &argv);
    let mut redis = Redis::connect(port);
    assert_eq!(redis.send("DEBUG DIGEST"), digest);
    b.wait_for_state("redis", "running", Duration::from_secs(120));
    assert_eq!(redis.send("DEBUG DIGEST"), digest);
    assert_eq!(redis.send("SET after move"), "+OK");
}

#[test]
fn redis_has_the_same_gibibyte_after_a_move_through_a_folder() {
    redis_moves(&TestStore::folder(), 1024);
}

#[test]
fn redis_has_the_same_gibibyte_after_a_move_through_the_real_server() {
    redis_moves(&TestStore::s3(), 1024);
}

/// Debian keeps these programs out of the way.
fn postgres(program: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed by deploy/setup.sh --tests")
        .flatten()
        .map(|version| version.path().join("bin").join(program))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found
        .pop()
        .unwrap_or_else(|| panic!("{program} is installed by deploy/setup.sh --tests"))
}

struct Database {
    folder: tempfile::TempDir,
    port: String,
}

impl Database {
    fn make() -> Self {
        let folder = tempfile::Builder::new().prefix("lb-pg-").tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for path in [folder.path(), &data] {
            let owned = Command::new("chown")
                .arg("postgres")
                .arg(path)
                .status()
                .unwrap();
            assert!(owned.success(), "user postgres comes with PostgreSQL");
        }
        let port = free_port().to_string();
        let database = Self { folder, port };
        let made = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(postgres("initdb"))
            .args(["-A", "trust", "-D"])
            .arg(database.data())
            .current_dir("/")
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        database
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(postgres(program))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port])
            .args(arguments)
            .arg("postgres")
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The books of pgbench balance: what the history says is what the accounts say.
    fn balances(&self) -> bool {
        let query = "select (select sum(abalance) from pgbench_accounts) = \
                     (select coalesce(sum(delta), 0) from pgbench_history) and \
                     (select sum(tbalance) from pgbench_tellers) = \
                     (select sum(bbalance) from pgbench_branches)";
        self.tool("psql", &["-qtAc", query])
            .as_deref()
            .map(str::trim)
            == Some("t")
    }
}

#[test]
fn postgresql_keeps_its_books_and_its_shared_memory() {
    let database = Database::make();
    let store = TestStore::folder();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let (program, data) = (postgres("postgres").display().to_string(), database.data());
    let sockets = format!(
        "unix_socket_directories={}",
        database.folder.path().display()
    );
    let argv = [&*program, "-D", &data, "-p", &database.port, "-c", &sockets];
    let options = HoldOptions {
        user: Some("postgres"),
        ..HoldOptions::default()
    };
    let mut first = Hold::start_with(&a, "pg", &options, &argv);
    eventually("PostgreSQL answers", SOON, || {
        database.tool("psql", &["-c", "select 1"])
    });
    database
        .tool("pgbench", &["-i", "-q", "-s", "5"])
        .expect("pgbench makes its tables");
    database
        .tool("pgbench", &["-c", "4", "-t", "100"])
        .expect("pgbench runs");
    assert!(database.balances());
    a.evacuate("pg");
    assert_eq!(first.wait_for_end(SOON).0, 75, "{}", first.said());
    let second = Hold::start_with(&b, "pg", &options, &argv);
    eventually("PostgreSQL answers again", SOON, || {
        database.tool("psql", &["-c", "select 1"])
    });
    assert!(database.balances(), "{}", second.said());
    // Without -n it empties the history first.
    database
        .tool("pgbench", &["-n", "-c", "4", "-t", "100"])
        .expect("pgbench runs on");
    assert!(database.balances());
    let checked = database.tool(
        "psql",
        &[
            "-qtAc",
            "create extension amcheck; \
        select count(bt_index_check(c.oid, true)) from pg_class c join pg_am m on \
        m.oid = c.relam where m.amname = 'btree' and c.relname like 'pgbench%'",
        ],
    );
    assert_eq!(
        checked.as_deref().map(str::trim),
        Some("3"),
        "the indices are sound"
    );
}

#[test]
fn a_program_under_a_terminal_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = source(folder.path(), "tty.py", include_str!("programs/tty.py"));
    let store = TestStore::folder();
    let (a, b) = (Node::start("a", &store), Node::start("b", &store));
    let options = HoldOptions {
        arguments: &["--terminal", "always"],
        stdin: true,
        ..HoldOptions::default()
    };
    let argv = ["python3", &*script];
    let has = |text: &'static str| move |line: &str| line.contains(text);
    let mut first = Hold::start_with(&a, "tty", &options, &argv);
    first.wait_for_line(SOON, has("tty True"));
    first.write("one\n");
    first.wait_for_line(SOON, has("read 1 one"));
    a.evacuate("tty");
    assert_eq!(first.wait_for_end(SOON).0, 75, "{}", first.said());
    let mut second = Hold::start_with(&b, "tty", &options, &argv);
    b.wait_for_state("tty", "running", SOON);
    second.write("two\n");
    second.wait_for_line(SOON, has("read 2 two"));
}
