//! Injecting a userfaultfd into processes in every state; none may notice.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use lifeboat_sys::{
    namespace,
    pagemap::{Categories, Pagemap},
    pidfd::Pidfd,
    remote,
    tracer::Tracer,
    uffd::{Features, Modes, Uffd},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    mm::MapFlags,
    process::{Pid, Signal},
};

use crate::support::{self, Child, Memory, PATIENCE};

pub(crate) fn inject(child: &Child) -> Uffd {
    let process = Pidfd::open(child.pid).unwrap();
    remote::inject_userfaultfd(&process, Instant::now() + PATIENCE).unwrap()
}

/// What a program could notice of itself: descriptors, signals, threads.
pub(crate) fn appearance(pid: i32) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for field in [
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Threads",
        "Seccomp",
        "TracerPid",
    ] {
        facts.insert(field.to_owned(), support::status_of(pid, field));
    }
    let fds: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    facts.insert("fds".to_owned(), format!("{fds:?}"));
    facts
}

/// A child that sleeps in system call `number`, which `body` makes once and whose raw result it
/// returns, is injected into three times; returns the result (or the negative errno) after `wake`.
fn undisturbed(number: libc::c_long, body: impl FnOnce() -> i64, wake: impl FnOnce(&Child)) -> i64 {
    let mut child = support::fork_with(|parent| {
        let result = body();
        parent.send(result.cast_unsigned());
    });
    support::until_in_system_call(child.id(), number);
    let before = appearance(child.id());
    for _ in 0..3 {
        drop(inject(&child));
        // On a busy machine the time of a call with a timeout may be over.
        let asleep = support::until(|| {
            if child.has_sent() {
                return Some(false);
            }
            support::is_in_system_call(child.id(), number).then_some(true)
        });
        if !asleep {
            break;
        }
        assert_eq!(appearance(child.id()), before);
    }
    wake(&child);
    child.receive().cast_signed()
}

/// The raw system call, so that no library repeats what was interrupted.
pub(crate) fn raw(number: libc::c_long, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests pass addresses of what lives on their stacks.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result >= 0 {
        return result;
    }
    let error = std::io::Error::last_os_error();
    -i64::from(error.raw_os_error().unwrap())
}

pub(crate) fn address<T>(value: &T) -> u64 {
    ptr::from_ref(value).expose_provenance() as u64
}

fn fd_number(fd: &impl AsRawFd) -> u64 {
    u64::try_from(fd.as_raw_fd()).unwrap()
}

fn nobody(_: &Child) {}

#[test]
fn the_userfaultfd_tracks_the_process_it_came_from() {
    let memory = Memory::new(64);
    let mut child = support::fork_with(|parent| {
        parent.send(0);
        parent.receive();
        // SAFETY: in the mapping.
        unsafe { memory.pointer().wrapping_add(10 * 4096).write_volatile(1) };
        parent.send(0);
        parent.receive();
    });
    child.receive();
    let before = appearance(child.id());
    let uffd = inject(&child);
    assert_eq!(appearance(child.id()), before);
    let has = uffd.handshake(Features::TRACKING).unwrap();
    assert!(has.contains(Features::TRACKING));
    uffd.register(memory.run(), Modes::WRITE_PROTECT).unwrap();
    let pagemap = Pagemap::open(child.pid).unwrap();
    pagemap
        .scan_and_protect(memory.run(), Categories::NONE, |_| {})
        .unwrap();
    child.send(0);
    child.receive();
    let mut written = Vec::new();
    pagemap
        .scan_and_protect(memory.run(), Categories::NONE, |found| {
            written.push(found.run)
        })
        .unwrap();
    assert_eq!(written, [memory.part(10, 1)]);
}

#[test]
fn nanosleep_sleeps_its_time() {
    let slept = undisturbed(
        libc::SYS_clock_nanosleep,
        || {
            let time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 900_000_000,
            };
            let began = Instant::now();
            let clock = u64::try_from(libc::CLOCK_MONOTONIC).unwrap();
            assert_eq!(
                raw(
                    libc::SYS_clock_nanosleep,
                    [clock, 0, address(&time), 0, 0, 0]
                ),
                0
            );
            i64::try_from(began.elapsed().as_millis()).unwrap()
        },
        nobody,
    );
    assert!(slept >= 900, "{slept} ms");
}

#[test]
fn a_read_gets_its_data() {
    let (near, far) = UnixStream::pair().unwrap();
    let read = undisturbed(
        libc::SYS_read,
        || {
            let buffer = [0_u8; 16];
            raw(
                libc::SYS_read,
                [fd_number(&far), address(&buffer), 16, 0, 0, 0],
            )
        },
        |_| std::io::Write::write_all(&mut &near, b"12345").unwrap(),
    );
    assert_eq!(read, 5);
}

#[test]
fn a_receive_with_a_timeout_gets_its_data() {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = undisturbed(
        libc::SYS_recvfrom,
        || {
            let buffer = [0_u8; 16];
            raw(
                libc::SYS_recvfrom,
                [fd_number(&far), address(&buffer), 16, 0, 0, 0],
            )
        },
        |_| std::io::Write::write_all(&mut &near, b"123").unwrap(),
    );
    assert_eq!(read, 3);
}

#[test]
fn an_accept_gets_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let number = undisturbed(
        libc::SYS_accept4,
        || raw(libc::SYS_accept4, [fd_number(&listener), 0, 0, 0, 0, 0]),
        |_| drop(UnixStream::connect(&path).unwrap()),
    );
    assert!(number >= 0, "{number}");
}

#[test]
fn epoll_sees_its_event_and_its_timeout() {
    let (near, far) = UnixStream::pair().unwrap();
    let wait = |timeout: i32| {
        let queue = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let data = EventData::new_u64(1);
        let flags = EventFlags::IN;
        epoll::add(&queue, &far, data, flags).unwrap();
        let event = [0_u8; 16];
        let timeout = u64::from(timeout.cast_unsigned());
        raw(
            libc::SYS_epoll_wait,
            [fd_number(&queue), address(&event), 1, timeout, 0, 0],
        )
    };
    assert_eq!(undisturbed(libc::SYS_epoll_wait, || wait(900), nobody), 0);
    let wake = |_: &Child| std::io::Write::write_all(&mut &near, b"x").unwrap();
    assert_eq!(undisturbed(libc::SYS_epoll_wait, || wait(-1), wake), 1);
}

#[test]
fn poll_and_select_see_their_timeouts() {
    let polled = undisturbed(
        libc::SYS_poll,
        || raw(libc::SYS_poll, [0, 0, 900, 0, 0, 0]),
        nobody,
    );
    assert_eq!(polled, 0);
    let selected = undisturbed(
        libc::SYS_pselect6,
        || {
            let time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 900_000_000,
            };
            raw(libc::SYS_pselect6, [0, 0, 0, 0, address(&time), 0])
        },
        nobody,
    );
    assert_eq!(selected, 0);
}

#[test]
fn a_futex_waiter_is_woken_once_and_times_out_once() {
    let shared = Memory::with_flags(1, MapFlags::SHARED);
    let word = shared.addr().0;
    let wait = |nanoseconds: i64| {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: nanoseconds,
        };
        let time = if nanoseconds == 0 { 0 } else { address(&time) };
        raw(libc::SYS_futex, [word, 0, 0, time, 0, 0])
    };
    let wake = |_: &Child| assert_eq!(raw(libc::SYS_futex, [word, 1, 10, 0, 0, 0]), 1);
    assert_eq!(undisturbed(libc::SYS_futex, || wait(0), wake), 0);
    let timed_out = undisturbed(libc::SYS_futex, || wait(900_000_000), nobody);
    assert_eq!(timed_out, -i64::from(libc::ETIMEDOUT));
}

#[test]
fn waiting_for_signals_goes_on() {
    let set = 1_u64 << (libc::SIGUSR1 - 1);
    let how = u64::try_from(libc::SIG_BLOCK).unwrap();
    let block = || raw(libc::SYS_rt_sigprocmask, [how, address(&set), 0, 8, 0, 0]);
    let signal = |child: &Child| {
        rustix::process::kill_process(child.pid, Signal::USR1).unwrap();
    };
    let got = undisturbed(
        libc::SYS_rt_sigtimedwait,
        || {
            assert_eq!(block(), 0);
            raw(libc::SYS_rt_sigtimedwait, [address(&set), 0, 0, 8, 0, 0])
        },
        signal,
    );
    assert_eq!(got, i64::from(libc::SIGUSR1));
    let suspended = undisturbed(
        libc::SYS_rt_sigsuspend,
        || {
            count_signals(libc::SIGUSR1);
            assert_eq!(block(), 0);
            let none = 0_u64;
            raw(libc::SYS_rt_sigsuspend, [address(&none), 8, 0, 0, 0, 0])
        },
        signal,
    );
    assert_eq!(suspended, -i64::from(libc::EINTR), "a handler ran");
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn count_signals(number: libc::c_int) {
    // SAFETY: the handler only adds to an atomic.
    let before = unsafe { libc::signal(number, count as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
}

#[test]
fn a_signal_that_came_while_stopped_interrupts_as_it_should() {
    let mut child = support::fork_with(|parent| {
        count_signals(libc::SIGUSR1);
        let queue = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let event = [0_u8; 16];
        let forever = u64::from(u32::MAX);
        let arguments = [fd_number(&queue), address(&event), 1, forever, 0, 0];
        let result = raw(libc::SYS_epoll_wait, arguments);
        parent.send(result.cast_unsigned());
        parent.send(SIGNALS.load(Ordering::Relaxed));
    });
    support::until_in_system_call(child.id(), libc::SYS_epoll_wait);
    let process = Pidfd::open(child.pid).unwrap();
    let tracer = Tracer::seize(&process, child.pid).unwrap();
    let mut stopped = tracer.stop(Instant::now() + PATIENCE).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let pid = stopped
        .system_call(libc::SYS_getpid, [0; 6], deadline)
        .unwrap()
        .unwrap();
    assert_eq!(pid, u64::try_from(child.id()).unwrap());
    rustix::process::kill_process(child.pid, Signal::USR1).unwrap();
    // Still stopped, and the signal is blocked while system calls are injected.
    stopped
        .system_call(libc::SYS_getpid, [0; 6], deadline)
        .unwrap()
        .unwrap();
    stopped.release().unwrap();
    assert_eq!(child.receive().cast_signed(), -i64::from(libc::EINTR));
    assert_eq!(child.receive(), 1);
}

#[test]
fn an_injected_call_that_fails_says_why() {
    let child = support::fork_with(|parent| {
        parent.receive();
    });
    let process = Pidfd::open(child.pid).unwrap();
    let tracer = Tracer::seize(&process, child.pid).unwrap();
    let mut stopped = tracer.stop(Instant::now() + PATIENCE).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let error = stopped.system_call(libc::SYS_close, [9999, 0, 0, 0, 0, 0], deadline);
    assert_eq!(
        error.unwrap().unwrap_err().raw_os_error(),
        Some(libc::EBADF)
    );
}

/// A computation whose every step depends on all before, in integer and vector registers.
fn compute(steps: u64) -> u64 {
    let (mut state, mut sum) = (0x9e37_79b9_7f4a_7c15_u64, 0.0_f64);
    for step in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sum += f64::from(u32::try_from(state >> 40).unwrap()).sqrt();
        if step % 4096 == 0 {
            state ^= sum.to_bits();
        }
    }
    state ^ sum.to_bits()
}

#[test]
fn a_computation_comes_out_the_same() {
    const STEPS: u64 = 20_000_000;
    let mut child = support::fork_with(|parent| {
        parent.send(0);
        parent.send(compute(STEPS));
        parent.receive();
    });
    child.receive();
    let mut injections = 0;
    while support::status_of(child.id(), "State").starts_with('R') {
        drop(inject(&child));
        injections += 1;
    }
    assert!(injections > 5, "{injections}");
    assert_eq!(child.receive(), compute(STEPS));
}

#[test]
fn signals_go_on_arriving_and_dispositions_stay() {
    let mut child = support::fork_with(|parent| {
        count_signals(libc::SIGALRM);
        // SAFETY: ignoring a signal installs no handler.
        let before = unsafe { libc::signal(libc::SIGTRAP, libc::SIG_IGN) };
        assert_ne!(before, libc::SIG_ERR);
        let tick = libc::timeval {
            tv_sec: 0,
            tv_usec: 500,
        };
        let timer = libc::itimerval {
            it_interval: tick,
            it_value: tick,
        };
        assert_eq!(
            raw(libc::SYS_setitimer, [0, address(&timer), 0, 0, 0, 0]),
            0
        );
        parent.send(0);
        let mut interrupted = 0_u64;
        while SIGNALS.load(Ordering::Relaxed) < 500 {
            let time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 3_000_000,
            };
            if raw(libc::SYS_nanosleep, [address(&time), 0, 0, 0, 0, 0]) != 0 {
                interrupted += 1;
            }
        }
        parent.send(interrupted);
        parent.receive();
    });
    child.receive();
    let before = appearance(child.id());
    for _ in 0..100 {
        drop(inject(&child));
    }
    assert!(
        child.receive() > 100,
        "sleeps were interrupted by the timer"
    );
    assert_eq!(appearance(child.id()), before);
}

/// What one of many threads does over and over; every result is the right one or a panic.
fn one_round(number: u32) {
    let futex = AtomicU32::new(0);
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    let result = match number % 4 {
        0 => raw(libc::SYS_nanosleep, [address(&time), 0, 0, 0, 0, 0]),
        1 => raw(libc::SYS_poll, [0, 0, 2, 0, 0, 0]),
        2 => {
            let result = raw(
                libc::SYS_futex,
                [address(&futex), 128, 0, address(&time), 0, 0],
            );
            result + i64::from(libc::ETIMEDOUT)
        }
        _ => i64::from(compute(2000) != compute(2000)),
    };
    assert_eq!(result, 0, "thread {number}");
}

#[test]
fn a_process_with_32_threads_in_all_states_is_not_disturbed() {
    const THREADS: u32 = 32;
    let shared = Memory::with_flags(1, MapFlags::SHARED);
    let words: *mut u32 = shared.pointer().cast();
    // SAFETY: a word of memory shared with the child, zero at first.
    let stop = unsafe { AtomicU32::from_ptr(words) };
    // SAFETY: another such word.
    let rounds = unsafe { AtomicU32::from_ptr(words.wrapping_add(1)) };
    let mut child = support::fork_with(|parent| {
        std::thread::scope(|scope| {
            for number in 0..THREADS {
                scope.spawn(move || {
                    while stop.load(Ordering::Relaxed) == 0 {
                        one_round(number);
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            parent.send(0);
        });
        parent.send(0);
    });
    child.receive();
    for _ in 0..30 {
        drop(inject(&child));
    }
    call_in_every_thread(&child);
    let seen = rounds.load(Ordering::Relaxed);
    support::until(|| (rounds.load(Ordering::Relaxed) > seen + THREADS).then_some(()));
    stop.store(1, Ordering::Relaxed);
    child.receive();
    child.assert_success();
}

fn call_in_every_thread(child: &Child) {
    let process = Pidfd::open(child.pid).unwrap();
    for entry in fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
        let tid: i32 = entry
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let tracer = Tracer::seize(&process, Pid::from_raw(tid).unwrap()).unwrap();
        let mut stopped = tracer.stop(deadline).unwrap();
        let number = stopped
            .system_call(libc::SYS_gettid, [0; 6], deadline)
            .unwrap()
            .unwrap();
        assert_eq!(number, u64::try_from(tid).unwrap());
        stopped.release().unwrap();
    }
}

#[test]
fn children_forked_meanwhile_inherit_no_userfaultfd() {
    const CHILDREN: usize = 150;
    let mut child = support::fork_with(|parent| {
        parent.send(0);
        // The children live as long as the thread that forks them.
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let child = || {
                    support::fork_with(|parent| {
                        parent.receive();
                    })
                };
                let children: Vec<Child> = (0..CHILDREN).map(|_| child()).collect();
                barrier.wait();
                barrier.wait();
                drop(children);
            });
            barrier.wait();
            parent.send(0);
            parent.receive();
            barrier.wait();
        });
    });
    child.receive();
    let process = Pidfd::open(child.pid).unwrap();
    let before = userfaultfds_of(child.pid);
    let mut tree = namespace::process_tree(&process).unwrap();
    while tree.len() <= CHILDREN {
        drop(inject(&child));
        tree = namespace::process_tree(&process).unwrap();
    }
    for process in tree {
        assert_eq!(userfaultfds_of(process.pid), before, "{process:?}");
    }
    child.receive();
}

/// Some are inherited from this process, which does other tests at the same time.
fn userfaultfds_of(pid: Pid) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    fds.filter(|fd| {
        let link = fs::read_link(fd.as_ref().unwrap().path()).unwrap();
        link.display().to_string().contains("userfaultfd")
    })
    .count()
}

#[test]
fn injections_at_random_moments_lose_and_repeat_nothing() {
    let (mut near, far) = UnixStream::pair().unwrap();
    const WORDS: u32 = 3000;
    let child = support::fork(|| {
        for word in 0..WORDS {
            let bytes = word.to_le_bytes();
            assert_eq!(
                raw(
                    libc::SYS_write,
                    [fd_number(&far), address(&bytes), 4, 0, 0, 0]
                ),
                4
            );
            if word % 8 == 0 {
                let time = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 50_000,
                };
                assert_eq!(raw(libc::SYS_nanosleep, [address(&time), 0, 0, 0, 0, 0]), 0);
            }
        }
    });
    let reader = std::thread::spawn(move || {
        for word in 0..WORDS {
            let mut bytes = [0; 4];
            near.read_exact(&mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), word);
        }
    });
    let process = Pidfd::open(child.pid).unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    let mut injections = 0;
    while process.is_alive() {
        match remote::inject_userfaultfd(&process, Instant::now() + PATIENCE) {
            Ok(_) => injections += 1,
            Err(error) => assert!(error.is_gone(), "{error}"),
        }
        let pause = Instant::now() + Duration::from_micros(random.random_range(0..300));
        process.wait_exit(pause).unwrap();
    }
    reader.join().unwrap();
    assert!(injections > 10, "{injections}");
    child.assert_success();
}
