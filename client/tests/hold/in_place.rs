//! Without a daemon: the program runs as if there were no hold.

use std::{io::Write as _, path::Path, thread};

use nix::sys::signal::Signal;

use crate::program::{Program, exists, hold, lifeboat};

const NOWHERE: &str = "/nonexistent/lifeboatd.sock";

fn start(script: &str) -> Program {
    Program::start(&mut hold(Path::new(NOWHERE), script))
}

#[test]
fn the_exit_code_is_the_programs() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        assert_eq!(start(script).code(), code, "{script}");
    }
}

#[test]
fn the_absence_of_the_daemon_is_said_once_and_only_on_standard_error() {
    let mut program = start("echo out; echo err >&2");
    assert_eq!(program.code(), 0);
    assert_eq!(program.stdout.rest_text(), "out\n");
    let said = program.stderr.rest_text();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with("lifeboat: test: started without protection"),
        "{said}"
    );
    assert!(lines[0].contains(NOWHERE), "{said}");
    assert_eq!(lines[1], "err");
}

#[test]
fn who_insists_on_the_daemon_gets_nothing_started() {
    let mut command = lifeboat();
    command.args([
        "--socket",
        NOWHERE,
        "run",
        "-w",
        "test",
        "--require-daemon",
        "echo",
        "ran",
    ]);
    let mut program = Program::start(&mut command);
    assert_eq!(program.code(), 170);
    assert_eq!(program.stdout.rest_text(), "");
    assert!(program.stderr.rest_text().contains(NOWHERE));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let mut command = lifeboat();
    command.args([
        "--socket",
        NOWHERE,
        "run",
        "-w",
        "test",
        "--",
        "/no/such/program",
    ]);
    let mut program = Program::start(&mut command);
    assert_eq!(program.code(), 170);
    let said = program.stderr.rest_text();
    assert!(
        said.contains("/no/such/program") && said.contains("No such file"),
        "{said}"
    );
}

#[test]
fn the_program_has_the_callers_directory_environment_mask_and_default_signals() {
    let mut command = hold(
        Path::new(NOWHERE),
        "pwd; umask; echo \"$LIFEBOAT_TEST\"; grep -E 'Sig(Blk|Ign)' /proc/self/status; \
         ps -o sid= -p $$ | tr -d ' '; echo $$",
    );
    command.current_dir("/usr").env("LIFEBOAT_TEST", "a=b");
    let mut program = Program::start(&mut command);
    let lines: Vec<String> = (0..7).map(|_| program.stdout.line()).collect();
    assert_eq!(program.code(), 0);
    assert_eq!(lines[0], "/usr");
    assert_eq!(lines[2], "a=b");
    assert_eq!(lines[3], "SigBlk:\t0000000000000000");
    assert_eq!(lines[4], "SigIgn:\t0000000000000000");
    assert_eq!(lines[5], lines[6], "it leads its session");
}

#[test]
fn a_hundred_megabytes_go_through_exactly_once() {
    let mut program = start("cat");
    let sent: Vec<u8> = (0..100_u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut stdin = program.take_stdin();
    let got = thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&sent).unwrap();
            drop(stdin);
        });
        program.stdout.rest()
    });
    assert_eq!(program.code(), 0);
    assert_eq!(got.len(), sent.len());
    assert!(got == sent);
}

#[test]
fn the_end_of_input_reaches_the_program() {
    let mut program = start("cat > /dev/null; echo ended");
    program.type_line("something");
    program.close_stdin();
    assert_eq!(program.stdout.line(), "ended");
    assert_eq!(program.code(), 0);
}

#[test]
fn signals_reach_the_first_process_only() {
    let script = "trap 'echo got TERM; exit 3' TERM; \
                  sh -c 'trap \"echo child got it\" TERM; read x' & \
                  echo ready; while :; do wait $!; done";
    let mut program = start(script);
    assert_eq!(program.stdout.line(), "ready");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.stdout.line(), "got TERM");
    assert_eq!(program.code_with_stdin_open(), 3);
    assert_eq!(program.stdout.rest_text(), "");
}

#[test]
fn other_signals_reach_it_too() {
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        let name = signal.as_str().trim_start_matches("SIG");
        let mut program = start(&format!(
            "trap 'echo {name}; exit 5' {name}; echo ready; sleep 1000 & wait $!"
        ));
        assert_eq!(program.stdout.line(), "ready");
        program.signal(signal);
        assert_eq!(program.stdout.line(), name);
        assert_eq!(program.code_with_stdin_open(), 5);
    }
}

#[test]
fn orphans_stay_below_the_first_process() {
    // What left its tree would not be saved with it.
    let directory = tempfile::TempDir::new().unwrap();
    let gate = directory.path().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let orphan = format!("read y < {}; ps -o ppid= -p \\$\\$", gate.display());
    let mut program = start(&format!(
        "sh -c 'sh -c \"{orphan}\" & exit'; echo $$; read x; exit 4"
    ));
    let root = program.stdout.line();
    std::fs::write(&gate, "go on\n").unwrap();
    assert_eq!(program.stdout.line().trim(), root);
    program.type_line("go on");
    assert_eq!(program.code(), 4);
}

#[test]
fn what_the_first_process_leaves_behind_is_ended() {
    let mut program = start("setsid sleep 1000 & sleep 1000 & echo $!; exit 6");
    let left = program.stdout.line();
    assert_eq!(program.code(), 6);
    assert!(!exists(&left));
    // The pipe would stay open if something were left.
    assert_eq!(program.stdout.rest_text(), "");
}

#[test]
fn a_reader_that_goes_away_ends_the_program_as_without_a_hold() {
    let mut program = start("yes");
    assert_eq!(program.stdout.line(), "y");
    let (reader, _) = std::io::pipe().unwrap();
    program.stdout = crate::program::Output::new(reader.into());
    assert_eq!(program.code(), 141);
}

#[test]
fn a_reader_that_does_not_read_does_not_keep_signals_from_the_program() {
    let mut program = start("trap 'exit 9' USR1; echo ready; yes & wait $!");
    assert_eq!(program.stdout.line(), "ready");
    program.signal(Signal::SIGUSR1);
    // What was written comes before the end.
    let got = program.stdout.rest_text();
    assert!(got.bytes().all(|byte| byte == b'y' || byte == b'\n'));
    assert_eq!(program.code(), 9);
}

#[test]
fn last_words_are_not_lost() {
    for _ in 0..20 {
        let mut program = start("head -c 60000 /dev/zero; printf last");
        let got = program.stdout.rest();
        assert_eq!(got.len(), 60004);
        assert!(got.ends_with(b"last"));
        assert_eq!(program.code(), 0);
    }
}

#[test]
fn the_hold_of_a_container_is_its_first_process() {
    // Everything in the namespace ends with it, daemonised processes too.
    let inner = hold(
        Path::new(NOWHERE),
        "setsid setsid sleep 1000 & echo $PPID; exit 8",
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let mut program = Program::start(&mut command);
    assert_eq!(program.stdout.line(), "1");
    assert_eq!(program.code(), 8);
    assert_eq!(program.stdout.rest_text(), "");
}
