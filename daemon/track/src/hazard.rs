//! Writes that no page table notes: devices that write to pages which the kernel pinned for them.
//!
//! A page that is pinned for writing when a scan protects it can be written until it is released,
//! without losing its protection. What is read of it in that time may be out of date, and nothing
//! will ever say so. So after each scan the process is asked what it may have under way:
//!
//! - Reads past the page cache (`O_DIRECT`) end soon: what was reported is reported once more when
//!   they must have ended. A thread that waits for one sleeps uninterruptibly.
//! - Asynchronous ones (`io_submit(2)`) show nowhere; they get a longer time.
//! - Pins without an end (io_uring buffers, RDMA) make tracking worthless while there are any.
//!
//! Pins that come after a scan are no hazard: pinning for writing takes the protection away. Nor
//! those that are released before the process is asked: what is captured is read afterwards.

use std::{
    collections::VecDeque,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use lifeboat_sys::pidfd::Pidfd;

use crate::{Runs, error::number};

/// Longest time from the beginning of a direct read until its thread sleeps uninterruptibly.
pub const DIRECT_SETTLES: Duration = Duration::from_secs(1);

/// Longest time that an asynchronous direct read takes: the block layer's own time limit.
pub const ASYNC_SETTLES: Duration = Duration::from_secs(30);

/// Most descriptors that are looked at. A process with more is taken to read directly.
pub const DESCRIPTORS_MAX: usize = 1024;

/// Most threads whose state is looked at. A process with more is taken to wait.
pub const THREADS_MAX: usize = 4096;

/// Reports whose times differ by less are kept together, which bounds their number.
const TOGETHER: Duration = Duration::from_millis(100);

/// `O_DIRECT` as `/proc/PID/fdinfo` writes it, on x86-64.
const O_DIRECT: u32 = 0o40_000;

/// What a process may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hazard {
    /// Nothing.
    None,
    /// Direct reads.
    Direct,
    /// Asynchronous direct reads.
    Async,
    /// Pins without an end.
    Pinned,
}

/// What the descriptors of a process are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptors {
    /// A file that is read past the page cache, or more descriptors than are looked at.
    pub(crate) direct: bool,
    /// A userfaultfd of the process's own.
    pub(crate) userfaultfd: bool,
    /// An io_uring.
    pub(crate) uring: bool,
}

impl Descriptors {
    /// Looks. What cannot be read is not there.
    pub(crate) fn of(process: &Pidfd) -> Self {
        let mut found = Self::default();
        let directory = format!("/proc/{}/fd", number(process));
        let Ok(entries) = fs::read_dir(directory) else {
            return found;
        };
        for (index, entry) in entries.flatten().enumerate() {
            if index == DESCRIPTORS_MAX {
                found.direct = true;
                break;
            }
            let Ok(link) = fs::read_link(entry.path()) else {
                continue;
            };
            match link.as_os_str().as_bytes() {
                b"anon_inode:[userfaultfd]" => found.userfaultfd = true,
                b"anon_inode:[io_uring]" => found.uring = true,
                path if path.starts_with(b"/") => {
                    found.direct |= is_direct(process, entry.file_name().as_ref());
                }
                _ => {}
            }
        }
        found
    }
}

impl Hazard {
    /// Of a process with these descriptors and mappings.
    pub(crate) fn of(process: &Pidfd, descriptors: Descriptors, has_aio: bool) -> Self {
        if pins_memory(process) || descriptors.uring {
            Self::Pinned
        } else if has_aio {
            Self::Async
        } else if descriptors.direct {
            Self::Direct
        } else {
            Self::None
        }
    }

    /// After which time what is under way now has ended.
    fn settles(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Direct => DIRECT_SETTLES,
            Self::Async | Self::Pinned => ASYNC_SETTLES,
        }
    }
}

/// What was reported while something was under way, and is to be reported again.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    reports: VecDeque<Report>,
}

/// Reports of about the same time.
#[derive(Debug)]
struct Report {
    /// When the first one settles.
    first: Instant,
    /// When the last one settles.
    due: Instant,
    runs: Runs,
}

impl Unsettled {
    /// A report that was made under a hazard.
    pub(crate) fn add(&mut self, hazard: Hazard, now: Instant, reported: &Runs) {
        if hazard == Hazard::None || reported.is_empty() {
            return;
        }
        let due = now + hazard.settles();
        match self.reports.back_mut() {
            Some(last) if due.saturating_duration_since(last.first) < TOGETHER => {
                last.due = last.due.max(due);
                last.runs = last.runs.or(reported);
            }
            _ => self.reports.push_back(Report {
                first: due,
                due,
                runs: reported.clone(),
            }),
        }
    }

    /// Takes what has settled.
    pub(crate) fn settle(&mut self, process: &Pidfd, now: Instant) -> Runs {
        let is_due = |report: &mut Report| report.due <= now;
        let mut settled = Runs::new();
        if !self.reports.front_mut().is_some_and(is_due) || waits(process) {
            return settled;
        }
        while let Some(report) = self.reports.pop_front_if(is_due) {
            settled = settled.or(&report.runs);
        }
        settled
    }

    /// All that has not settled.
    pub(crate) fn all(&self) -> Runs {
        self.reports
            .iter()
            .fold(Runs::new(), |all, report| all.or(&report.runs))
    }
}

fn is_direct(process: &Pidfd, descriptor: &Path) -> bool {
    let path = Path::new("/proc")
        .join(number(process).to_string())
        .join("fdinfo")
        .join(descriptor);
    let Ok(text) = fs::read_to_string(path) else {
        return false;
    };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & O_DIRECT != 0)
}

/// Whether memory of the process is pinned for a long time.
fn pins_memory(process: &Pidfd) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", number(process)));
    let status = status.unwrap_or_default();
    let pinned = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    pinned.is_some_and(|pinned| !pinned.trim().starts_with("0 "))
}

/// Whether a thread sleeps uninterruptibly.
fn waits(process: &Pidfd) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", number(process))) else {
        return false;
    };
    threads.flatten().enumerate().any(|(index, thread)| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        index >= THREADS_MAX || state == Some('D')
    })
}
