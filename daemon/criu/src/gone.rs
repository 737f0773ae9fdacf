//! Whether a killed tree is gone.
//!
//! CRIU runs inside of the workload's PID namespace. When the hold, the namespace's first process,
//! ends with its workload, the kernel kills all that is left in there, CRIU too, before CRIU can say
//! that it has finished. So its end by SIGKILL says nothing; the processes do.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    time::Instant,
};

use lifeboat_sys::pidfd::Pidfd;

/// Waits until none of `pids` (as seen in `namespace`; the caller's own, if `None`) is there.
/// `false`: some still were at the deadline.
pub(crate) fn wait(
    namespace: Option<OwnedFd>,
    pids: &BTreeSet<u32>,
    deadline: Instant,
) -> io::Result<bool> {
    let namespace = match namespace {
        Some(fd) => File::from(fd).metadata()?.ino(),
        None => fs::metadata("/proc/self/ns/pid")?.ino(),
    };
    loop {
        let left = alive(namespace, pids)?;
        if left.is_empty() {
            return Ok(true);
        }
        for process in left {
            if !process.wait_exit(deadline).map_err(io::Error::other)? {
                return Ok(false);
            }
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// The processes that are there and not zombies.
fn alive(namespace: u64, pids: &BTreeSet<u32>) -> io::Result<Vec<Pidfd>> {
    let mut alive = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(process) = rustix::process::Pid::from_raw(pid) else {
            continue;
        };
        // What cannot be looked at is gone by now.
        let Ok(own) = fs::metadata(format!("/proc/{pid}/ns/pid")) else {
            continue;
        };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.split_whitespace().last())
        };
        let inner = field("NSpid:").and_then(|pid| pid.parse().ok());
        let zombie = status.lines().any(|line| line.starts_with("State:\tZ"));
        if own.ino() == namespace && !zombie && inner.is_some_and(|pid| pids.contains(&pid)) {
            match Pidfd::open(process) {
                Ok(process) => alive.push(process),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
    Ok(alive)
}
