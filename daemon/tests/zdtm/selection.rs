//! Which programs run.

use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::program::{Collection, Program};

/// Programs of every kind.
const ALWAYS: &[&str] = &[
    // processes, threads, sessions, credentials
    "static/pstree",
    "static/zombie01",
    "static/xids00",
    "static/child_subreaper_existing_child",
    "static/pdeath_sig",
    "static/stopped12",
    "static/pthread01",
    "static/thread_different_uid_gid",
    "static/groups",
    "static/caps00",
    "static/different_creds",
    "static/seccomp_filter_threads",
    "static/seccomp_strict",
    "static/sched_policy00",
    "static/rlimits00",
    "static/oom_score_adj",
    "static/chroot-file",
    "static/pidfd_child",
    "static/wait00",
    // registers, signals, timers, clocks
    "static/fpu02",
    "static/sse20",
    "static/vdso02",
    "static/rseq00",
    "static/futex-rl",
    "static/sigpending",
    "static/sigaltstack",
    "static/signalfd00",
    "static/posix_timers",
    "static/timerfd",
    "static/time",
    // memory
    "static/maps00",
    "static/maps02",
    "static/maps04",
    "static/maps11",
    "static/maps12",
    "static/mlock_setuid",
    "static/mprotect00",
    "static/thp_disable",
    "static/uffd-events",
    "static/aio00",
    "static/shmemfd-priv",
    "static/memfd02",
    "static/unlink_mmap02",
    "transition/maps007",
    "transition/maps008",
    "transition/lazy-thp",
    "transition/shmem",
    "transition/stack",
    // files
    "static/unlink_fstat03",
    "static/unlink_fifo",
    "static/unlink_largefile",
    "static/ghost_holes02",
    "static/ghost_multi_hole01",
    "static/deleted_dev",
    "static/file_lease00",
    "static/inotify00",
    "static/fanotify00",
    "static/eventfs00",
    "static/epoll01",
    "static/proc-self",
    "static/unhashed_proc",
    "static/write_read10",
    "transition/file_aio",
    // pipes, terminals
    "static/pipe02",
    "static/fifo-rowo-pair",
    "transition/pipe_shared00",
    "static/pty04",
    "static/tty03",
    // sockets
    "static/scm05",
    "static/sk-unix-unconn-seqpacket",
    "static/deleted_unix_sock",
    "static/sockets03",
    "static/sk-netlink",
    "static/packet_sock_mmap",
    "static/sock_filter01",
    "static/socket-raw",
    "static/socket_udp_shutdown",
    "static/socket_queues",
    "static/socket-tcp",
    "static/socket-tcp-listen",
    "static/socket-tcpbuf6-local",
    "static/socket-tcp4v6-closing",
    "transition/socket_loop00",
    "transition/socket-tcp6",
    // everything in motion
    "transition/fork",
    "transition/rseq03",
];

/// Programs by chance.
const BY_CHANCE: usize = 20;

/// What is to be run: see the module of the test.
pub(crate) fn choose(collection: &Collection) -> Vec<Program> {
    if let Ok(names) = std::env::var("LIFEBOAT_TEST_ZDTM_ONLY") {
        let all = collection.programs().to_vec();
        return named(all, &names.split_whitespace().collect());
    }
    let mut applicable = Vec::new();
    for program in collection.programs() {
        match program.not_applicable() {
            Some(why) => eprintln!("{}: not applicable: {why}", program.name()),
            None => applicable.push(program.clone()),
        }
    }
    if std::env::var_os("LIFEBOAT_TEST_ZDTM_ALL").is_some() {
        return applicable;
    }
    let seed = match std::env::var("LIFEBOAT_TEST_SEED") {
        Ok(text) => text.parse().expect("LIFEBOAT_TEST_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    eprintln!("LIFEBOAT_TEST_SEED={seed}");
    let mut names: BTreeSet<&str> = ALWAYS.iter().copied().collect();
    let rest: Vec<&str> = applicable
        .iter()
        .map(Program::name)
        .filter(|name| !names.contains(name))
        .collect();
    names.extend(rest.choose_multiple(&mut StdRng::seed_from_u64(seed), BY_CHANCE));
    let names: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
    named(applicable, &names.iter().map(String::as_str).collect())
}

fn named(programs: Vec<Program>, names: &BTreeSet<&str>) -> Vec<Program> {
    let mut missing = names.clone();
    let mut chosen = programs;
    chosen.retain(|program| missing.remove(program.name()));
    for name in missing {
        // The kernel, the processor or a library lacks what it needs.
        eprintln!("{name}: cannot run on this machine");
    }
    chosen
}
