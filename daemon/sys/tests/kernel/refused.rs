//! Processes that an injection must leave alone, or cannot have: each is told, and left as it was.

use std::{
    ffi::CString,
    fs, ptr,
    time::{Duration, Instant},
};

use lifeboat_sys::{
    pidfd::Pidfd,
    remote::{self, InjectError},
    tracer::{TraceError, Tracer},
    uffd::Uffd,
};
use rustix::process::Signal;

use crate::{
    remote::{address, appearance, inject, raw},
    support::{self, PATIENCE, Parent},
};

#[test]
fn a_stopped_process_stays_stopped() {
    let mut child = support::fork_with(|parent| {
        parent.send(0);
        let answer = parent.receive();
        parent.send(answer);
    });
    child.receive();
    rustix::process::kill_process(child.pid, Signal::STOP).unwrap();
    let stopped = || {
        support::status_of(child.id(), "State")
            .starts_with('T')
            .then_some(())
    };
    support::until(stopped);
    for _ in 0..3 {
        drop(inject(&child));
        support::until(stopped);
    }
    rustix::process::kill_process(child.pid, Signal::CONT).unwrap();
    child.send(5);
    assert_eq!(child.receive(), 5);
}

#[test]
fn a_seccomp_filter_does_not_stand_in_the_way_and_stays() {
    let mut child = support::fork_with(|parent| {
        refuse_userfaultfd();
        // SAFETY: tried in vain.
        assert!(unsafe { Uffd::for_this_process() }.is_err());
        parent.send(0);
        parent.receive();
        // SAFETY: tried in vain.
        assert!(unsafe { Uffd::for_this_process() }.is_err());
    });
    child.receive();
    let before = appearance(child.id());
    assert_eq!(before["Seccomp"], "2");
    drop(inject(&child));
    assert_eq!(appearance(child.id()), before);
    child.send(0);
    child.assert_success();
}

/// As the filters of container runtimes do.
fn refuse_userfaultfd() {
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_userfaultfd).unwrap();
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut filter = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, number),
        instruction(0x06, 0, 0, refuse),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    let set = u64::try_from(libc::PR_SET_NO_NEW_PRIVS).unwrap();
    assert_eq!(raw(libc::SYS_prctl, [set, 1, 0, 0, 0, 0]), 0);
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    assert_eq!(
        raw(libc::SYS_seccomp, [mode, 0, address(&program), 0, 0, 0]),
        0
    );
}

#[test]
fn who_is_traced_by_another_is_left_to_it() {
    let child = support::fork_with(|parent| {
        parent.receive();
    });
    let mut debugger = support::fork_with(|parent: &mut Parent| {
        let process = Pidfd::open(child.pid).unwrap();
        let _tracer = Tracer::seize(&process, child.pid).unwrap();
        parent.send(0);
        parent.receive();
    });
    debugger.receive();
    let process = Pidfd::open(child.pid).unwrap();
    let error = remote::inject_userfaultfd(&process, Instant::now() + PATIENCE).unwrap_err();
    assert!(error.is_traced_by_others(), "{error}");
    match error {
        InjectError::Trace {
            source: TraceError::AlreadyTraced { by, .. },
            ..
        } => {
            assert_eq!(by, debugger.id());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_that_cannot_be_stopped_is_given_up_in_time_and_released() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // posix_spawn(3) suspends its caller until the new process executes its program, which here
    // waits for somebody to open the pipe.
    let mut child = support::fork_with(|parent| {
        parent.send(u64::from(spawn_waiting_for(&name).cast_unsigned()));
    });
    let vforked = || {
        let text = fs::read_to_string(format!("/proc/{}/task/{}/children", child.id(), child.id()));
        (!text.unwrap().is_empty()).then_some(())
    };
    support::until(vforked);
    support::until(|| {
        support::status_of(child.id(), "State")
            .starts_with('D')
            .then_some(())
    });
    let process = Pidfd::open(child.pid).unwrap();
    let began = Instant::now();
    let limit = Duration::from_millis(200);
    let error = remote::inject_userfaultfd(&process, began + limit).unwrap_err();
    assert!(matches!(error, InjectError::Deadline { .. }), "{error}");
    assert!(began.elapsed() < limit * 5, "{:?}", began.elapsed());
    support::until(|| (support::status_of(child.id(), "TracerPid") == "0").then_some(()));
    drop(fs::OpenOptions::new().write(true).open(&path).unwrap());
    assert_eq!(child.receive(), 0, "posix_spawn succeeded");
    child.assert_success();
}

fn spawn_waiting_for(fifo: &CString) -> libc::c_int {
    let program = c"/bin/true";
    let arguments = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let mut actions = std::mem::MaybeUninit::uninit();
    // SAFETY: the actions are initialised here.
    let initialised = unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) };
    assert_eq!(initialised, 0);
    // SAFETY: initialised; the name outlives the call.
    let added = unsafe {
        libc::posix_spawn_file_actions_addopen(
            actions.as_mut_ptr(),
            100,
            fifo.as_ptr(),
            libc::O_RDONLY,
            0,
        )
    };
    assert_eq!(added, 0);
    let mut pid = 0;
    // SAFETY: everything is initialised, and the lists end with null pointers.
    unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.as_ptr(),
            ptr::null(),
            arguments.as_ptr(),
            [ptr::null_mut()].as_ptr(),
        )
    }
}

#[test]
fn a_process_that_is_gone_is_gone() {
    let child = support::fork_with(|parent| {
        parent.receive();
    });
    let process = Pidfd::open(child.pid).unwrap();
    drop(child);
    let error = remote::inject_userfaultfd(&process, Instant::now() + PATIENCE).unwrap_err();
    assert!(error.is_gone(), "{error}");
}

#[test]
fn no_room_for_a_descriptor_is_said() {
    let mut child = support::fork_with(|parent| {
        let limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the limit is valid.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        assert_eq!(set, 0);
        parent.send(0);
        let answer = parent.receive();
        parent.send(answer);
    });
    child.receive();
    let process = Pidfd::open(child.pid).unwrap();
    let error = remote::inject_userfaultfd(&process, Instant::now() + PATIENCE).unwrap_err();
    match error {
        InjectError::Call { call, source, .. } => {
            assert_eq!(
                (call, source.raw_os_error()),
                ("userfaultfd", Some(libc::EMFILE))
            );
        }
        other => panic!("{other:?}"),
    }
    child.send(3);
    assert_eq!(child.receive(), 3);
}
