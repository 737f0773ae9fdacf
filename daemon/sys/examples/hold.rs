//! For tests: the first process of a PID namespace. Starts a command as a session leader with a
//! high PID (if there is one on its command line), prints its PID on standard error, and reaps
//! whatever ends, for ever. With `HOLD_ENDS` in the environment it ends with its command; with
//! `HOLD_NET` it has its own network, with a loopback device.

use std::{env, fs, process::Command, thread, time::Duration};

use nix::{errno::Errno, sys::wait::waitpid, unistd::Pid};

fn main() {
    // What the test's own parents left open belongs to other mount namespaces: CRIU refuses it.
    // SAFETY: this program has opened nothing yet, so nothing of it is closed.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if env::var_os("HOLD_NET").is_some() {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("ip(8) runs").success());
    }
    let mut command = env::args_os().skip(1);
    if let Some(program) = command.next() {
        // High, so that a restore's own processes, low, do not take the workload's PIDs.
        fs::write("/proc/sys/kernel/ns_last_pid", "1000").expect("own pid namespace");
        #[expect(
            clippy::zombie_processes,
            reason = "the loop below waits for whatever ends"
        )]
        let child = Command::new("setsid")
            .arg(program)
            .args(command)
            .spawn()
            .expect("started");
        eprintln!("started {}", child.id());
    } else {
        eprintln!("empty");
    }
    if env::var_os("HOLD_ENDS").is_some() {
        let _gone = waitpid(Pid::from_raw(-1), None);
        return;
    }
    loop {
        if waitpid(Pid::from_raw(-1), None) == Err(Errno::ECHILD) {
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}
