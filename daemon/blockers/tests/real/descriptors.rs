//! Kernel objects, devices, pipes, terminals.

use std::process::{Command, Stdio};

use lifeboat_blockers::{Kind, Policy};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::program::{PYTHON, Program, expect, is_root};

#[test]
fn a_program_that_can_travel_has_nothing_in_its_way() {
    let program = Program::start(
        "
import select, subprocess, pty
keep = [os.pipe(), os.eventfd(0), select.epoll(), os.memfd_create('x'), socket.socketpair()]
keep[2].register(keep[1])
call(253)                                                   # inotify_init
call(283, 1, 0)                                             # timerfd_create
mask = (ctypes.c_ulong * 16)(1 << 9)
call(282, -1, mask, 8)                                      # signalfd
call(319, b'memory', 0)                                     # memfd_create
listener = socket.create_server(('127.0.0.1', 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 0))
six = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
shared = mmap.mmap(-1, 1 << 20)
unlinked = tempfile.TemporaryFile(); unlinked.write(b'x' * 100000); unlinked.flush()
master, slave = pty.openpty()
threading.Thread(target=signal.pause, daemon=True).start()
if os.fork() == 0: os._exit(0)                              # stays a zombie
child = os.fork()
if child == 0:
    while True: signal.pause()
pidfd = os.pidfd_open(child)
grandchild = subprocess.Popen(['sleep', 'infinity'], stdin=subprocess.PIPE, stdout=slave)
zero = open('/dev/zero'); random = open('/dev/urandom'); proc = open('/proc/self/status')
readonly = open('/etc/passwd')
",
    );
    assert_eq!(program.inspect(&Policy::default()), []);
    program.dump(&Policy::default()).unwrap();
    let held = Policy {
        held: true,
        ..Policy::default()
    };
    let found = program.inspect(&held);
    // The test's own process, with its other children, is no hold.
    assert!(
        found.iter().all(|blocker| blocker.kind == Kind::Orphan),
        "{found:#?}"
    );
}

#[test]
fn io_uring_is_named_with_its_descriptor() {
    let program = Program::start("said = call(425, 8, (ctypes.c_char * 120)())");
    let found = program.only(&Policy::default());
    let descriptor = format!("descriptor {} of \"python3\"", program.said);
    expect(&found, Kind::IoUring, true, &[&descriptor, "io_uring"]);
    assert_eq!(found.pid, program.pid());
}

#[test]
fn a_mapped_ring_is_found_without_its_descriptor() {
    let program = Program::start(
        "
ring = call(425, 8, (ctypes.c_char * 120)())
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
assert libc.mmap(None, 4096, 3, 1, ring, 0) != ctypes.c_void_p(-1).value
os.close(ring)
",
    );
    program.proves(&Policy::default(), Kind::IoUring, true, &["mapped"]);
}

#[test]
fn other_kernel_objects_are_named() {
    let userfaultfd = Program::start("call(323, 1)");
    userfaultfd.proves(
        &Policy::default(),
        Kind::Userfaultfd,
        true,
        &["userfaultfd"],
    );
    // A file system context, which stands for whatever CRIU does not know.
    let command = &mut crate::program::unshare(&["-m", "setsid", PYTHON]);
    let context = Program::start_by(command, "call(430, b'tmpfs', 0)");
    context.proves(&Policy::default(), Kind::Descriptor, true, &["[fscontext]"]);
    if is_root() {
        let perf = Program::start(
            "
attributes = (ctypes.c_uint32 * 32)(1, 128)
call(298, attributes, 0, -1, -1, 0)
",
        );
        perf.proves(&Policy::default(), Kind::PerfEvent, true, &["profiling"]);
        let bpf = Program::start("call(321, 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72)");
        bpf.proves(&Policy::default(), Kind::Bpf, true, &["bpf-map"]);
    }
}

#[test]
fn devices_are_named() {
    let candidates = [
        "/dev/fuse",
        "/dev/kvm",
        "/dev/loop-control",
        "/dev/cpu_dma_latency",
    ];
    let open = |path: &&&str| std::fs::File::open(path).is_ok();
    let device = candidates
        .iter()
        .find(open)
        .expect("one of these can be opened");
    let program = Program::start(&format!("device = open({device:?}, 'rb', buffering=0)"));
    program.proves(&Policy::default(), Kind::Device, true, &[device]);
}

#[test]
fn pidfds_of_strangers_are_refused() {
    let program = Program::start("os.pidfd_open(os.getppid())");
    let stranger = format!("process {}", std::process::id());
    program.proves(&Policy::default(), Kind::Pidfd, true, &[&stranger]);
}

#[test]
fn pipes_that_lead_out_are_told_unless_they_are_carried() {
    let command = &mut Command::new("setsid");
    command.arg(PYTHON).stdin(Stdio::piped());
    let mut program = Program::start_with_streams(command, "said = os.fstat(0).st_ino");
    let _writer = program.stdin();
    program.proves(
        &Policy::default(),
        Kind::Pipe,
        false,
        &["descriptor 0", "end-of-file", "lifeboat run"],
    );
    let carried = vec![program.said.parse().unwrap()];
    assert_eq!(
        program.inspect(&Policy {
            carried_pipes: carried,
            ..Policy::default()
        }),
        []
    );
    let held = program.inspect(&Policy {
        held: true,
        ..Policy::default()
    });
    assert!(
        held.iter().all(|blocker| blocker.kind != Kind::Pipe),
        "{held:#?}"
    );
}

#[test]
fn a_terminal_of_somebody_else_is_fatal() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let program = Program::start(&format!("os.open({name:?}, os.O_RDWR | os.O_NOCTTY)"));
    program.proves(
        &Policy::default(),
        Kind::Terminal,
        true,
        &[&name, "lifeboat run"],
    );
}
