//! Processes by descriptor.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use lifeboat_sys::pidfd::{Pidfd, PidfdError};
use rustix::process::Signal;

use crate::support;

#[test]
fn the_end_of_a_process_is_seen_and_waited_for() {
    let mut child = support::fork_with(|parent| {
        parent.receive();
    });
    let pidfd = Pidfd::open(child.pid).unwrap();
    assert!(pidfd.is_alive());
    assert!(
        !pidfd
            .wait_exit(Instant::now() + Duration::from_millis(10))
            .unwrap()
    );
    child.send(0);
    assert!(pidfd.wait_exit(Instant::now() + support::PATIENCE).unwrap());
    assert!(!pidfd.is_alive(), "a zombie has ended");
    child.assert_success();
    assert!(pidfd.send_signal(Signal::TERM).unwrap_err().is_gone());
    assert!(pidfd.get_fd(0).unwrap_err().is_gone());
    assert!(Pidfd::open(pidfd.pid()).unwrap_err().is_gone());
}

#[test]
fn signals_arrive() {
    let child = support::fork_with(|parent| {
        parent.receive();
    });
    Pidfd::open(child.pid)
        .unwrap()
        .send_signal(Signal::TERM)
        .unwrap();
    assert_eq!(child.wait().terminating_signal(), Some(libc::SIGTERM));
}

#[test]
fn descriptors_are_duplicated_close_on_exec() {
    let mut child = support::fork_with(|parent| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"theirs").unwrap();
        parent.send(u64::try_from(file.as_raw_fd()).unwrap());
        parent.receive();
    });
    let number = i32::try_from(child.receive()).unwrap();
    let pidfd = Pidfd::open(child.pid).unwrap();
    let fd = pidfd.get_fd(number).unwrap();
    assert!(
        rustix::io::fcntl_getfd(&fd)
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
    let mut file = File::from(fd);
    file.rewind().unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "theirs");
    let error = pidfd.get_fd(number + 500).unwrap_err();
    assert!(matches!(error, PidfdError::Descriptor { .. }), "{error}");
}
