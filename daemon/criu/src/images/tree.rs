//! `pstree.img` and the part of `core-PID.img` that tells zombies from others.

use std::collections::BTreeSet;

use prost::Message;

use super::{ImageSet, ImagesError, frame::Reader, limits::Credentials};

const PSTREE_MAGIC: u32 = 0x5027_3030;
const CORE_MAGIC: u32 = 0x5505_3847;

/// CRIU's `TASK_DEAD`: the process has ended and was not waited for.
const TASK_DEAD: u32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint32, required, tag = "1")]
    pid: u32,
    #[prost(uint32, required, tag = "2")]
    ppid: u32,
    #[prost(uint32, required, tag = "3")]
    pgid: u32,
    #[prost(uint32, required, tag = "4")]
    sid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    threads: Vec<u32>,
}

/// What this crate reads of `core-TID.img`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Core {
    #[prost(message, optional, tag = "3")]
    pub(super) task: Option<TaskCore>,
    #[prost(message, optional, tag = "4")]
    pub(super) ids: Option<super::machine::Ids>,
    #[prost(message, optional, tag = "5")]
    pub(super) thread: Option<ThreadCore>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskCore {
    #[prost(uint32, required, tag = "1")]
    task_state: u32,
    #[prost(uint32, optional, tag = "11")]
    pub(super) old_seccomp_mode: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ThreadCore {
    #[prost(message, optional, tag = "10")]
    pub(super) credentials: Option<Credentials>,
    #[prost(uint32, optional, tag = "11")]
    pub(super) seccomp_mode: Option<u32>,
    #[prost(message, optional, tag = "15")]
    rseq: Option<Rseq>,
}

/// Where a thread's restartable sequences are registered (rseq(2)).
#[derive(Clone, PartialEq, Message)]
struct Rseq {
    #[prost(uint64, required, tag = "1")]
    address: u64,
    #[prost(uint32, required, tag = "2")]
    bytes: u32,
}

/// A process of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// PID.
    pub pid: u32,
    /// PID of the parent; 0 for the first one.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Thread ids; one of them is the PID.
    pub threads: Vec<u32>,
    /// Whether it is a zombie: no memory, no userfaultfd.
    pub zombie: bool,
}

/// The processes; the first one first.
pub(super) fn tasks(images: &ImageSet) -> Result<Vec<Task>, ImagesError> {
    let name = "pstree.img";
    let mut reader = Reader::new(name, images.required(name)?, PSTREE_MAGIC)?;
    let mut tasks = Vec::new();
    let mut pids = BTreeSet::new();
    while let Some(entry) = reader.entry::<Entry>()? {
        let known = pids.insert(entry.pid);
        let rooted = tasks.is_empty() || pids.contains(&entry.ppid);
        if !known || !rooted || entry.pid == 0 || i32::try_from(entry.pid).is_err() {
            return Err(reader.malformed("a tree of processes"));
        }
        let core = core(images, entry.pid)?;
        let parent = if tasks.is_empty() { 0 } else { entry.ppid };
        tasks.push(Task {
            pid: entry.pid,
            parent,
            group: entry.pgid,
            session: entry.sid,
            threads: entry.threads,
            zombie: core.task.is_some_and(|task| task.task_state == TASK_DEAD),
        });
    }
    if tasks.is_empty() {
        Err(reader.malformed("a process"))
    } else {
        Ok(tasks)
    }
}

/// The areas of restartable sequences of a process's threads: address and size, in bytes.
pub(super) fn rseq_areas(images: &ImageSet, task: &Task) -> Result<Vec<(u64, u32)>, ImagesError> {
    let mut areas = Vec::new();
    for tid in &task.threads {
        let thread = core(images, *tid)?.thread;
        areas.extend(
            thread
                .and_then(|thread| thread.rseq)
                .map(|rseq| (rseq.address, rseq.bytes)),
        );
    }
    Ok(areas)
}

/// `core-TID.img`.
pub(super) fn core(images: &ImageSet, tid: u32) -> Result<Core, ImagesError> {
    let name = format!("core-{tid}.img");
    Reader::new(&name, images.required(&name)?, CORE_MAGIC)?.required()
}
