//! Tracing, sessions, namespaces, threads, orphans.

use std::process::Command;

use lifeboat_blockers::{InspectError, Kind, Policy, inspect};

use crate::program::{PYTHON, Program, expect, unshare};

#[test]
fn a_traced_process_is_told_with_its_tracer() {
    let program = Program::start("");
    let tracer = Program::start(&format!(
        "
assert libc.ptrace(0x4206, {}, None, None) == 0, 'PTRACE_SEIZE'
",
        program.pid()
    ));
    let by = format!("by \"python3\" (pid {})", tracer.pid());
    program.proves(&Policy::default(), Kind::Traced, true, &[&by]);
    drop(tracer);
    assert_eq!(program.inspect(&Policy::default()), []);
    program.dump(&Policy::default()).unwrap();
}

#[test]
fn a_program_in_somebody_s_session_is_told_how_to_start() {
    let program = Program::start_by(&mut Command::new(PYTHON), "");
    program.proves(
        &Policy::default(),
        Kind::Session,
        true,
        &["lifeboat run", "setsid"],
    );
}

#[test]
fn namespaces_below_the_root_are_fatal() {
    let own = "
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.close(read)
    if libc.unshare(FLAGS) != 0: os.write(write, str(ctypes.get_errno()).encode())
    os.close(write)
    while True: signal.pause()
os.close(write)
assert os.read(read, 9) == b''
os.close(read)
said = child
";
    let fork = "if os.fork() == 0: os.write(write, b'')\n    os.close(write)\n    while True";
    let (newuts, newuser, newpid) = (0x0400_0000, 0x1000_0000, 0x2000_0000);
    for (flags, after, expected) in [
        (
            newuser | newuts,
            "os.close(write)\n    while True",
            &["uts", "user"][..],
        ),
        (
            newuser | newpid,
            fork,
            &[
                "for its children",
                "user",
                "pid namespace",
                "user",
                "outside of its PID namespace",
            ],
        ),
    ] {
        let script = own.replace("FLAGS", &flags.to_string());
        let program = Program::start(&script.replace("os.close(write)\n    while True", after));
        let found = program.inspect(&Policy::default());
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (blocker, kind) in found.iter().zip(expected) {
            assert!(
                blocker.fatal && blocker.detail.contains(kind),
                "{blocker:#?}"
            );
        }
        assert_eq!(found[0].pid.to_string(), program.said);
        program.dump(&Policy::default()).unwrap_err();
    }
    // Of the whole workload they are the hold's work, and no obstacle.
    let command = &mut unshare(&["-u", "-i", "-n", "-m", "setsid", PYTHON]);
    assert_eq!(
        Program::start_by(command, "").inspect(&Policy::default()),
        []
    );
}

#[test]
fn a_first_thread_that_has_ended_is_fatal() {
    let program = Program::start(
        "
def go_on():
    fd = os.open(f'/proc/{os.getpid()}/stat', os.O_RDONLY)
    while b') Z ' not in os.pread(fd, 4096, 0): pass
    os.close(fd)
    os.write(1, b'ready\\n')
    while True: signal.sigwait([signal.SIGUSR1])
threading.Thread(target=go_on).start()
libc.syscall(60, 0)
",
    );
    let found = program.inspect(&Policy::default());
    expect(&found[0], Kind::ProcessState, true, &["first thread"]);
    program.dump(&Policy::default()).unwrap_err();
}

#[test]
fn processes_that_left_the_tree_are_told_under_a_hold() {
    let hold = Program::start(
        "
libc.prctl(36, 1, 0, 0, 0)                                  # PR_SET_CHILD_SUBREAPER
read, write = os.pipe()
hold, root = os.getpid(), os.fork()
if root == 0:
    os.setsid()
    if os.fork() == 0:
        if os.fork() == 0:
            while os.getppid() != hold: pass
            os.write(write, str(os.getpid()).encode()); os.close(write); os.close(read)
            while True: signal.pause()
        os._exit(0)
    os.close(write); os.close(read)
    os.wait()
    while True: signal.pause()
os.close(write)
said = f'{root} {int(os.read(read, 9))}'
",
    );
    let (root, orphan) = hold.said.split_once(' ').unwrap();
    let pipes = hold.pipes();
    let policy = Policy {
        held: true,
        carried_pipes: pipes,
        ..Policy::default()
    };
    let found = inspect(root.parse().unwrap(), &policy).unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    expect(
        &found[0],
        Kind::Orphan,
        false,
        &["background", "foreground"],
    );
    assert_eq!(found[0].pid.to_string(), orphan);
}

#[test]
fn a_process_that_is_not_there_is_an_error() {
    let program = Program::start("");
    let pid = program.pid();
    drop(program);
    let error = inspect(pid, &Policy::default()).unwrap_err();
    let InspectError::Root { pid: told, .. } = error;
    assert_eq!(told, pid);
    assert!(inspect(0, &Policy::default()).is_err());
    assert!(inspect(u32::MAX, &Policy::default()).is_err());
}
