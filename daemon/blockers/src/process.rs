//! The processes of a workload, and what of their state matters.

use std::{collections::HashSet, io};

use crate::{
    blocker::{Findings, Kind},
    proc::{ProcDir, field, is_gone},
};

/// Most processes that are looked at.
const PROCESSES_MAX: usize = 8192;

/// Most threads of one process that are looked at.
const THREADS_MAX: usize = 8192;

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) dir: ProcDir,
    /// The command's name, for people.
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) threads: Vec<u32>,
}

/// Fields of /proc/PID/status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The state's letter.
    pub(crate) state: Option<char>,
    /// Who traces it; 0 for nobody.
    pub(crate) tracer: u32,
    pub(crate) parent: u32,
    /// PID and session in its own PID namespace. The session is 0 if its leader is outside.
    pub(crate) inner_pid: u32,
    pub(crate) inner_session: u32,
    /// Locked and huge pages, in KiB.
    pub(crate) locked_kib: u64,
    pub(crate) huge_kib: u64,
}

impl Status {
    pub(crate) fn parse(text: &str) -> Self {
        let number = |key| {
            field(text, key)
                .and_then(|value| value.parse().ok())
                .unwrap_or(0)
        };
        let kib = |key| {
            let value = field(text, key).and_then(|value| value.strip_suffix(" kB"));
            value
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        let innermost = |key| {
            let last = field(text, key).and_then(|value| value.split_whitespace().last());
            last.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Self {
            state: field(text, "State").and_then(|value| value.chars().next()),
            tracer: number("TracerPid"),
            parent: number("PPid"),
            inner_pid: innermost("NSpid"),
            inner_session: innermost("NSsid"),
            locked_kib: kib("VmLck"),
            huge_kib: kib("HugetlbPages"),
        }
    }

    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, Some('Z' | 'X' | 'x'))
    }
}

impl Process {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let dir = ProcDir::open(pid)?;
        let text = dir.text("status")?;
        Ok(Self {
            pid,
            name: field(&text, "Name").unwrap_or("?").to_owned(),
            status: Status::parse(&text),
            threads: dir.numbers("task", THREADS_MAX)?,
            dir,
        })
    }

    /// PIDs of its children. Each thread has its own list.
    pub(crate) fn children(&self) -> io::Result<Vec<u32>> {
        let mut all = Vec::new();
        for thread in &self.threads {
            let text = match self.dir.text(&format!("task/{thread}/children")) {
                Ok(text) => text,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            all.extend(
                text.split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
        Ok(all)
    }

    /// `name (pid N)`, for people.
    pub(crate) fn shown(&self) -> String {
        format!("{:?} (pid {})", self.name, self.pid)
    }
}

/// The process `root` and everything below it, parents first.
pub(crate) fn tree(root: Process, findings: &mut Findings) -> Vec<Process> {
    let mut seen = HashSet::from([root.pid]);
    let mut all = vec![root];
    let mut next = 0;
    while let Some(process) = all.get(next) {
        next += 1;
        let children = match process.children() {
            Ok(children) => children,
            Err(error) if is_gone(&error) => continue,
            Err(error) => {
                let (pid, shown) = (process.pid, process.shown());
                let detail = format!("the children of {shown} could not be read: {error}");
                findings.note(Kind::Unknown, pid, detail);
                continue;
            }
        };
        for pid in children {
            if all.len() >= PROCESSES_MAX {
                let detail = format!(
                    "there are more than {PROCESSES_MAX} processes; the others were not looked at"
                );
                findings.note(Kind::Unknown, all[0].pid, detail);
                return all;
            }
            if seen.insert(pid)
                && let Ok(child) = Process::open(pid)
            {
                all.push(child);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_by_name() {
        let status = Status::parse(
            "Name:\tpython3\nState:\tt (tracing stop)\nPPid:\t7\nTracerPid:\t12\n\
             NSpid:\t4711\t1001\nNSsid:\t4711\t0\nVmLck:\t   2048 kB\nHugetlbPages:\t 4 kB\n",
        );
        assert_eq!(status.state, Some('t'));
        assert_eq!((status.tracer, status.parent), (12, 7));
        assert_eq!((status.inner_pid, status.inner_session), (1001, 0));
        assert_eq!((status.locked_kib, status.huge_kib), (2048, 4));
        assert_eq!(Status::parse("\0garbage\n:::"), Status::default());
    }

    #[test]
    fn a_tree_begins_with_its_root_and_has_this_process() {
        let me = Process::open(std::process::id()).unwrap();
        let parent = me.status.parent;
        let tree = tree(Process::open(parent).unwrap(), &mut Findings::default());
        assert_eq!(tree[0].pid, parent);
        assert!(tree.iter().any(|process| process.pid == std::process::id()));
    }
}
