//! Programs with a terminal.

use std::{
    io::Write as _,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command},
};

use lifeboat_sys::{spawn::ChildSetup, wait};
use rustix::{
    process::{PidfdFlags, pidfd_open},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    daemon::Daemon,
    program::{Output, deadline, lifeboat},
    spawned::start_init,
};

const NOWHERE: &str = "/nonexistent/lifeboatd.sock";

/// A person at a terminal.
struct Person {
    master: OwnedFd,
    screen: Output,
    child: Child,
}

impl Person {
    fn start(socket: &Path, mode: &str, script: &str) -> Self {
        let mut command = lifeboat();
        command.arg("--socket").arg(socket);
        command.args([
            "run",
            "-w",
            "test",
            "--terminal",
            mode,
            "--",
            "sh",
            "-c",
            script,
        ]);
        Self::at(&mut command)
    }

    /// Somebody at a terminal of 40 rows and 100 columns, with this program on it.
    fn at(command: &mut Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        resize(&master, 40, 100);
        let child = on_terminal(command, slave);
        Self {
            screen: Output::new(master.try_clone().unwrap()),
            master,
            child,
        }
    }

    fn types(&self, text: &str) {
        let mut master = std::fs::File::from(self.master.try_clone().unwrap());
        master.write_all(text.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        // Both sides show the same modes.
        !tcgetattr(&self.master)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
    }

    fn code(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(
            wait::readable(&pidfd, deadline()).unwrap(),
            "the hold has not ended"
        );
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn on_terminal(command: &mut Command, slave: OwnedFd) -> Child {
    let copy = || slave.try_clone().unwrap();
    command.stdin(copy()).stdout(copy()).stderr(copy());
    let mut setup = ChildSetup::new();
    setup.default_signals().controlling_terminal(slave);
    setup.apply(command);
    let child = command.spawn().unwrap();
    // The command owns copies of the slave.
    *command = Command::new("true");
    child
}

fn resize(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).unwrap();
}

#[test]
fn a_program_with_a_terminal_sees_its_size_its_keys_and_its_changes() {
    let script = "tty > /dev/null && echo a terminal; stty size; read x; echo \"<$x>\"; \
                  trap 'stty size; exit 21' WINCH; echo waiting; sleep 1000 & wait $!";
    let mut person = Person::start(Path::new(NOWHERE), "auto", script);
    person.screen.until(b"a terminal\r\n");
    person.screen.until(b"40 100\r\n");
    assert!(
        person.is_raw(),
        "the outer terminal leaves everything to the inner one"
    );
    person.types("hello\r");
    // Echoed by the inner terminal, once.
    assert_eq!(person.screen.line(), "hello");
    assert_eq!(person.screen.line(), "<hello>");
    assert_eq!(person.screen.line(), "waiting");
    resize(&person.master, 50, 120);
    person.screen.until(b"50 120\r\n");
    assert_eq!(person.code(), 21);
    assert!(!person.is_raw(), "the terminal is as before");
}

#[test]
fn keys_that_make_signals_make_them_inside() {
    let script = "trap 'echo interrupted; exit 22' INT; echo ready; sleep 1000 & wait $!";
    let mut person = Person::start(Path::new(NOWHERE), "auto", script);
    person.screen.until(b"ready\r\n");
    person.types("\x03");
    person.screen.until(b"interrupted\r\n");
    assert_eq!(person.code(), 22);
}

#[test]
fn without_a_terminal_of_its_own_the_keys_signals_reach_the_whole_job() {
    let script = "trap 'echo parent; exit 23' INT; \
                  sh -c 'trap \"echo child; exit\" INT; echo ready; sleep 1000 & wait $!'; wait";
    let mut person = Person::start(Path::new(NOWHERE), "never", script);
    person.screen.until(b"ready\r\n");
    assert!(!person.is_raw());
    person.types("\x03");
    person.screen.until(b"child\r\n");
    person.screen.until(b"parent\r\n");
    assert_eq!(person.code(), 23);
}

#[test]
fn the_end_of_input_is_typed() {
    let mut person = Person::start(Path::new(NOWHERE), "auto", "cat; echo ended; exit 24");
    person.screen.until(b"started without protection");
    person.screen.until(b"\r\n");
    person.types("line\r");
    person.screen.until(b"line\r\nline\r\n");
    person.types("\x04");
    person.screen.until(b"ended\r\n");
    assert_eq!(person.code(), 24);
}

#[test]
fn the_terminal_is_put_back_when_the_workload_is_killed() {
    let mut person = Person::start(Path::new(NOWHERE), "auto", "echo ready; kill -KILL $$");
    person.screen.until(b"ready\r\n");
    assert_eq!(person.code(), 137);
    assert!(!person.is_raw());
}

#[test]
fn a_terminal_can_be_asked_for_where_there_is_none() {
    let mut command = lifeboat();
    let script = "tty > /dev/null && echo a terminal; cat";
    command.args([
        "--socket",
        NOWHERE,
        "run",
        "-w",
        "test",
        "--terminal",
        "always",
        "--",
    ]);
    command.args(["sh", "-c", script]);
    let mut program = crate::program::Program::start(&mut command);
    assert_eq!(program.stdout.line(), "a terminal");
    program.type_line("piped");
    // The terminal's echo, then cat's.
    assert_eq!(program.stdout.line(), "piped");
    assert_eq!(program.stdout.line(), "piped");
    program.close_stdin();
    assert_eq!(program.code(), 0);
}

#[test]
fn size_and_keys_pass_through_both_halves() {
    let daemon = Daemon::new();
    let script = "stty size; trap 'stty size; exit 25' WINCH; read x; echo \"<$x>\"; \
                  echo waiting; sleep 1000 & wait $!";
    let mut person = Person::start(&daemon.socket(), "auto", script);
    let mut connection = daemon.accept();
    let (spawn, descriptors) = connection.spawn();
    let mut init = start_init(&spawn, descriptors);
    connection.say(lifeboat_proto::hold::to_hold::Message::Spawned(
        lifeboat_proto::hold::Spawned {},
    ));
    let (mut hold, register) = daemon.registered();
    let names: Vec<&str> = register
        .streams
        .iter()
        .map(|pipe| pipe.stream.as_str())
        .collect();
    assert_eq!(names, ["stdin", "stdout", "stderr", "terminal-control"]);
    assert!(
        !person.is_raw(),
        "until the workload runs, the keys are the hold's"
    );
    hold.start();
    person.screen.until(b"40 100\r\n");
    person.types("hello\r");
    person.screen.until(b"<hello>\r\n");
    person.screen.until(b"waiting\r\n");
    resize(&person.master, 50, 120);
    person.screen.until(b"50 120\r\n");
    hold.exited();
    hold.note_exit(None);
    assert_eq!(person.code(), 25);
    assert!(!person.is_raw());
    drop(init.wait());
}

#[test]
fn a_hold_in_the_background_leaves_the_keys_to_the_shell() {
    let mut command = Command::new("bash");
    command
        .args(["--norc", "--noprofile", "-i"])
        .env("PS1", "$ ")
        .env("LIFEBOAT_SOCKET", NOWHERE);
    let mut person = Person::at(&mut command);
    let program = assert_cmd::cargo::cargo_bin!("lifeboat").display();
    for mode in ["never", "always"] {
        let run = format!("{program} run -w test --terminal {mode} -- sh -c 'echo u\"\"p; cat'");
        person.types(&format!("{run} &\r"));
        // Not what was typed, but what the program says.
        person.screen.until(b"up\r");
        // The shell reads this, and cat (after `fg`) the next line.
        person.types("echo shell $((6*7))\r");
        person.screen.until(b"shell 42");
        person.types("fg\r");
        person.screen.until(b"cat'");
        person.types("for cat\r");
        // Once echoed by a terminal, once by cat.
        person.screen.until(b"for cat\r\nfor cat\r\n");
        person.types("\x04");
        person.screen.until(b"$ ");
    }
    person.types("exit 26\r");
    assert_eq!(person.code(), 26);
}
