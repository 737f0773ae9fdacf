//! The processes of a workload, as `/proc` tells them.
//!
//! `/proc` is read without trust: a process may be gone between two reads, a name may hold anything.
//! What is read while the tree runs is for people and plans; what is read while it is frozen is
//! exact.

use std::{collections::BTreeMap, fs, io};

/// Most processes of one workload.
pub const PROCESSES_MAX: usize = 4096;

/// A process of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// PID in the daemon's PID namespace.
    pub pid: u32,
    /// PID in the innermost PID namespace of the process.
    pub inner_pid: u32,
    /// Its name (comm).
    pub name: String,
    /// Number of threads.
    pub threads: u32,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Locked memory, in bytes.
    pub locked_bytes: u64,
}

/// Why a tree cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The first process is gone.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// Too many processes.
    #[error("the tree of process {pid} has more than {PROCESSES_MAX} processes")]
    TooMany {
        /// The first process.
        pid: u32,
    },
}

/// The process `root` and all its descendants, parents before children.
///
/// # Errors
/// When the first process is gone, or there are too many.
pub fn processes(root: u32) -> Result<Vec<Process>, TreeError> {
    let first = read(root).map_err(|_| TreeError::Gone { pid: root })?;
    let mut found = vec![first];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        for child in children(parent.pid) {
            // One that has gone meanwhile is no longer part of the tree.
            if let Ok(process) = read(child) {
                found.push(process);
            }
        }
        if found.len() > PROCESSES_MAX {
            return Err(TreeError::TooMany { pid: root });
        }
        next += 1;
    }
    Ok(found)
}

/// PIDs of a tree by the numbers that they have inside.
///
/// # Errors
/// As for [`processes`].
pub fn by_inner_pid(root: u32) -> Result<BTreeMap<u32, u32>, TreeError> {
    Ok(processes(root)?
        .into_iter()
        .map(|one| (one.inner_pid, one.pid))
        .collect())
}

/// The child of `parent` that has the number `inner_pid` in its own PID namespace.
#[must_use]
pub fn child_by_inner_pid(parent: u32, inner_pid: u32) -> Option<u32> {
    children(parent)
        .into_iter()
        .find(|child| read(*child).is_ok_and(|process| process.inner_pid == inner_pid))
}

/// Memory in use by a tree, in bytes: resident memory, summed (pages shared between processes count
/// for each of them).
#[must_use]
pub fn resident_bytes(root: u32) -> u64 {
    processes(root).map_or(0, |all| all.iter().map(|one| one.resident_bytes).sum())
}

/// Kills a tree: every process of it that there is. The first one is killed first, so that it cannot
/// start others.
pub fn kill(root: u32) {
    let Ok(all) = processes(root) else { return };
    for process in all {
        let Some(pid) = i32::try_from(process.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        else {
            continue;
        };
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::error!(pid = process.pid, %error, "cannot kill a process"),
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

fn read(pid: u32) -> io::Result<Process> {
    let status = fs::read(format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
            .unwrap_or_default()
    };
    let kib = |name: &str| {
        field(name)
            .split_ascii_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    let inner = field("NSpid:")
        .split_ascii_whitespace()
        .next_back()
        .and_then(|n| n.parse().ok());
    Ok(Process {
        pid,
        inner_pid: inner.unwrap_or(pid),
        name: field("Name:").to_owned(),
        threads: field("Threads:").parse().unwrap_or(1),
        resident_bytes: kib("VmRSS:"),
        locked_bytes: kib("VmLck:"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_its_first_process_and_all_below() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "cat & cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The shell has started its children when one of them echoes.
        use std::io::{Read as _, Write as _};
        child.stdin.as_ref().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let tree = processes(child.id()).unwrap();
        assert_eq!(tree[0].pid, child.id());
        assert!(
            tree[1..]
                .iter()
                .any(|one| one.name == "cat" || one.name == "sh")
        );
        assert!(resident_bytes(child.id()) > 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(matches!(processes(child.id()), Err(TreeError::Gone { .. })));
    }
}
