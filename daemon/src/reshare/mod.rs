//! Memory that processes of a tree shared before a save, shared again after the restore.
//!
//! A process that forks shares its memory with its child until one of them writes. Processes that are
//! restored lazily get each page on their own, so that a prefork server needs as many times the
//! memory as it has processes. The kernel has no call that makes one page of two; but it can look for
//! pages of the same content and merge them copy-on-write (KSM). So where several processes of a tree
//! have content at the same addresses, as forked processes do, they advise that these may be merged,
//! and the kernel is made to look for a while.
//!
//! Guarantees: contents never change; what is not merged costs memory, nothing else. It is off
//! unless asked for ([`crate::config::Restore::reshare`]), because merging can be noticed, by how long
//! a write takes, by whoever may have memory merged on this machine, too.

mod kernel;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lifeboat_format::Manifest;
use lifeboat_proto::units::{PAGE_SIZE, PageIndex, PageRun};
use lifeboat_sys::{pidfd::Pidfd, remote};
use rustix::process::Pid;

use crate::{observe::chain, workload::tree};

/// Least memory that several processes have at the same addresses, in bytes, for which it is worth
/// looking.
const WORTH_BYTES: u64 = 16 << 20;

/// Most ranges of one process that are to be merged; the largest ones.
const RANGES_MAX: usize = 256;

/// Longest time for which a process's thread is waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Ranges to be merged, by process as the manifest names it.
pub type Plan = BTreeMap<u32, Vec<PageRun>>;

/// What of a restored tree may have been shared; nothing, if that is not worth it.
#[must_use]
pub fn plan(manifest: &Manifest) -> Plan {
    let twice = held_twice(manifest);
    let pages: u64 = twice.iter().map(|run| run.pages).sum();
    if pages * PAGE_SIZE < WORTH_BYTES {
        return Plan::new();
    }
    let spaces = manifest.address_spaces.iter().map(|space| {
        let mut ranges: Vec<PageRun> = Vec::new();
        for mapping in &space.captured {
            let first = twice.partition_point(|run| run.end() <= mapping.start);
            let parts = twice[first..]
                .iter()
                .map_while(|run| run.intersection(*mapping));
            ranges.extend(parts);
        }
        ranges.sort_by_key(|range| std::cmp::Reverse(range.pages));
        ranges.truncate(RANGES_MAX);
        (space.pid, ranges)
    });
    spaces.filter(|(_, ranges)| !ranges.is_empty()).collect()
}

/// Pages at whose addresses several processes have content, ascending; neighbours are one run.
fn held_twice(manifest: &Manifest) -> Vec<PageRun> {
    let mut borders: Vec<(PageIndex, i32)> = Vec::new();
    for space in &manifest.address_spaces {
        for run in space.runs.iter() {
            borders.push((run.run.start, 1));
            borders.push((run.run.end(), -1));
        }
    }
    // Ends come before beginnings at the same place.
    borders.sort_unstable();
    let (mut holders, mut begin, mut twice) = (0, None, Vec::<PageRun>::new());
    for (at, change) in borders {
        holders += change;
        match begin {
            None if holders > 1 => begin = Some(at),
            Some(start) if holders < 2 => {
                begin = None;
                match twice.last_mut() {
                    Some(last) if last.end() == start => last.pages += at.0 - start.0,
                    _ => twice.push(PageRun::new(start, at.0 - start.0)),
                }
            }
            _ => {}
        }
    }
    twice
}

/// Has the processes of a tree advise what may be merged. Blocks; each stands still for a moment.
/// Returns whether there is anything to look for.
#[must_use]
pub fn advise(root: u32, plan: &Plan) -> bool {
    let pids = match tree::by_inner_pid(root) {
        Ok(pids) => pids,
        Err(error) => {
            tracing::warn!(root, error = chain(&error), "nothing is merged");
            return false;
        }
    };
    let mut advised = 0;
    for (inner, ranges) in plan {
        let pid = pids.get(inner).and_then(|pid| i32::try_from(*pid).ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(process) = Pidfd::open(pid) else {
            continue;
        };
        match remote::inject_mergeable(&process, ranges, Instant::now() + STOP_TIMEOUT) {
            Ok(()) => advised += 1,
            Err(error) if error.is_gone() => {}
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(
                    pid = pid.as_raw_nonzero(),
                    error,
                    "its memory is not merged"
                );
            }
        }
    }
    advised > 1
}

/// Has the kernel look for what can be merged.
pub async fn merge() {
    match kernel::look().await {
        Ok(merged_pages) => tracing::info!(merged_pages, "memory is shared again"),
        Err(error) => tracing::warn!(error = chain(&error), "memory is not shared again"),
    }
}
