//! Memory of another process.

use std::{os::unix::process::CommandExt, process::Command};

use lifeboat_proto::units::{PAGE_BYTES, PAGE_SIZE, PageRun, RemoteAddr};
use lifeboat_sys::{
    pagemap::{Entry, Pagemap},
    vm::{PIECES_MAX, RemoteMemory, VmError},
};
use rustix::mm::MprotectFlags;

use crate::support::{self, Child, Memory};

/// Every page says which one it is.
fn numbered(pages: usize) -> Memory {
    let mut memory = Memory::new(pages);
    for page in 0..pages {
        memory
            .page_mut(page)
            .fill(u8::try_from(page % 251).unwrap());
    }
    memory
}

/// A child that has `memory`, and does `change` before it waits.
fn holder(change: impl FnOnce()) -> Child {
    let mut child = support::fork_with(|parent| {
        change();
        parent.send(0);
        parent.receive();
    });
    child.receive();
    child
}

#[test]
fn more_runs_than_one_call_takes_are_read_in_order() {
    let pages = 4 * PIECES_MAX;
    let memory = numbered(pages);
    let child = holder(|| {});
    // Every third page, twos and ones.
    let runs: Vec<PageRun> = (0..pages / 3)
        .map(|i| memory.part(i * 3, 1 + i % 2))
        .rev()
        .collect();
    let size: u64 = runs.iter().map(|run| run.bytes()).sum();
    let mut buffer = vec![0xff; usize::try_from(size).unwrap()];
    RemoteMemory::open(child.pid)
        .unwrap()
        .read_runs(&runs, &mut buffer)
        .unwrap();
    let mut got = buffer.chunks_exact(PAGE_BYTES);
    for run in &runs {
        for page in run.start.0..run.end().0 {
            let index = page - memory.run().start.0;
            let expected = u8::try_from(index % 251).unwrap();
            assert!(
                got.next().unwrap().iter().all(|byte| *byte == expected),
                "page {index}"
            );
        }
    }
    assert!(got.next().is_none());
}

/// Page frames of a process.
fn frames(pid: rustix::process::Pid, run: PageRun) -> Vec<Option<u64>> {
    let mut entries = vec![Entry::default(); usize::try_from(run.pages).unwrap()];
    let pagemap = Pagemap::open(pid).unwrap();
    pagemap.entries(run.start, &mut entries).unwrap();
    entries.iter().map(|entry| entry.frame()).collect()
}

#[test]
fn what_is_shared_with_a_child_is_shared_still_when_it_was_read() {
    const PAGES: usize = 2048;
    let memory = numbered(PAGES);
    // It shares all of it with this process.
    let child = holder(|| {});
    let before = frames(child.pid, memory.run());
    assert!(before.iter().all(Option::is_some));
    assert_eq!(before, frames(rustix::process::getpid(), memory.run()));
    let mut buffer = vec![0; memory.len()];
    let remote = RemoteMemory::open(child.pid).unwrap();
    remote.read_runs(&[memory.run()], &mut buffer).unwrap();
    assert!(buffer == memory.bytes());
    let parts: Vec<PageRun> = (0..PAGES / 2)
        .map(|page| memory.part(page * 2, 1))
        .collect();
    remote
        .read_runs(&parts, &mut buffer[..PAGES / 2 * PAGE_BYTES])
        .unwrap();
    assert_eq!(frames(child.pid, memory.run()), before);
}

#[test]
fn pages_that_the_process_may_not_read_are_read_all_the_same() {
    let memory = numbered(300);
    let child = holder(|| {
        memory.protect(0, 1, MprotectFlags::empty());
        memory.protect(100, 50, MprotectFlags::empty());
        memory.protect(299, 1, MprotectFlags::empty());
    });
    let mut buffer = vec![0; memory.len()];
    let remote = RemoteMemory::open(child.pid).unwrap();
    remote.read_runs(&[memory.run()], &mut buffer).unwrap();
    assert!(buffer == memory.bytes());
    // The same in pieces that begin and end at their borders.
    let parts: Vec<PageRun> = (0..300).map(|page| memory.part(page, 1)).collect();
    buffer.fill(0);
    remote.read_runs(&parts, &mut buffer).unwrap();
    assert!(buffer == memory.bytes());
}

#[test]
fn an_unmapped_page_is_an_error_that_names_its_address() {
    let memory = numbered(40);
    let child = holder(|| memory.unmap(20, 5));
    let remote = RemoteMemory::open(child.pid).unwrap();
    let hole = memory.part(20, 1).start.addr();
    let mut buffer = vec![0; memory.len()];
    for runs in [
        vec![memory.run()],
        (0..40).map(|page| memory.part(page, 1)).collect(),
    ] {
        match remote.read_runs(&runs, &mut buffer) {
            Err(VmError::Read { addr, .. }) => assert_eq!(addr, hole),
            other => panic!("{other:?}"),
        }
    }
    let wild = remote
        .read(RemoteAddr(u64::MAX - PAGE_SIZE), &mut [0; 8])
        .unwrap_err();
    assert!(matches!(wild, VmError::Read { .. }), "{wild}");
}

#[test]
fn bytes_at_any_address_are_read_and_written() {
    let memory = numbered(4);
    let child = holder(|| {});
    let remote = RemoteMemory::open(child.pid).unwrap();
    let addr = RemoteAddr(memory.addr().0 + PAGE_SIZE - 3);
    remote.write(addr, b"abcdef").unwrap();
    let mut buffer = [0; 8];
    remote.read(addr, &mut buffer).unwrap();
    assert_eq!(&buffer, b"abcdef\x01\x01");
    assert_eq!(
        memory.bytes()[PAGE_BYTES - 1],
        0,
        "the parent has its own copy"
    );
    let nowhere = remote.write(RemoteAddr(8), b"x").unwrap_err();
    assert!(
        matches!(
            nowhere,
            VmError::Write {
                addr: RemoteAddr(8),
                ..
            }
        ),
        "{nowhere}"
    );
}

#[test]
fn an_address_space_that_was_replaced_or_ended_is_gone() {
    let memory = numbered(2);
    let mut child = support::fork_with(|parent| {
        parent.send(0);
        parent.receive();
        panic!("{}", Command::new("/bin/sleep").arg("1000").exec());
    });
    child.receive();
    let remote = RemoteMemory::open(child.pid).unwrap();
    let mut buffer = vec![0; memory.len()];
    remote.read_runs(&[memory.run()], &mut buffer).unwrap();
    child.send(0);
    // The read itself tells when exec has happened.
    let gone = support::until(|| remote.read_runs(&[memory.run()], &mut buffer).err());
    assert!(gone.is_gone(), "{gone}");
    rustix::process::kill_process(child.pid, rustix::process::Signal::KILL).unwrap();
    let pid = child.pid;
    child.wait();
    assert!(
        remote
            .read_runs(&[memory.run()], &mut buffer)
            .unwrap_err()
            .is_gone()
    );
    assert!(RemoteMemory::open(pid).unwrap_err().is_gone());
}

#[test]
fn a_buffer_of_another_size_is_refused() {
    let memory = numbered(2);
    let child = holder(|| {});
    let remote = RemoteMemory::open(child.pid).unwrap();
    let mut buffer = vec![0; PAGE_BYTES];
    let error = remote.read_runs(&[memory.run()], &mut buffer).unwrap_err();
    assert!(
        matches!(
            error,
            VmError::BufferSize {
                buffer: 4096,
                runs: 8192
            }
        ),
        "{error}"
    );
    remote.read_runs(&[], &mut []).unwrap();
}
