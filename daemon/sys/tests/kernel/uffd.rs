//! Missing pages of another process, served from here.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use lifeboat_proto::units::{PAGE_BYTES, PAGE_SIZE, PageRun, RemoteAddr};
use lifeboat_sys::{
    fdpass,
    uffd::{Event, EventBuffer, FaultFlags, Features, Install, Modes, Obstacle, Uffd},
    wait,
};
use rustix::mm::{Advice, MremapFlags};

use crate::support::{self, Child, Memory, PATIENCE, Parent};

/// A child with a userfaultfd over `memory`, which is sent here; then it does what `body` says.
fn lazy(memory: &Memory, features: Features, body: impl FnOnce(&mut Parent)) -> (Child, Uffd) {
    let (near, far) = UnixStream::pair().unwrap();
    let child = support::fork_with(|parent| {
        // SAFETY: the child handles this memory by raw pointers only.
        let uffd = unsafe { Uffd::for_this_process() }.unwrap();
        uffd.handshake(features).unwrap();
        uffd.register(memory.run(), Modes::MISSING).unwrap();
        fdpass::send_all(&far, b"u", &[uffd.as_fd()], Instant::now() + PATIENCE).unwrap();
        drop(uffd);
        body(parent);
    });
    let deadline = Instant::now() + PATIENCE;
    let mut got = fdpass::receive_exact(&near, &mut [0], 1, deadline).unwrap();
    (child, Uffd::from(got.fds.remove(0)))
}

/// Reads a byte, waiting for its page if need be.
fn look(memory: &Memory, page: usize) -> u64 {
    // SAFETY: mapped memory of this process.
    u64::from(unsafe {
        memory
            .pointer()
            .wrapping_add(page * PAGE_BYTES)
            .read_volatile()
    })
}

fn next_events(uffd: &Uffd, buffer: &mut EventBuffer) -> Vec<Event> {
    assert!(
        wait::readable(uffd, Instant::now() + PATIENCE).unwrap(),
        "no event"
    );
    uffd.read_events(buffer).unwrap().collect()
}

fn next_event(uffd: &Uffd) -> Event {
    let mut events = next_events(uffd, &mut EventBuffer::new());
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn next_fault(uffd: &Uffd) -> RemoteAddr {
    match next_event(uffd) {
        Event::PageFault { addr, .. } => addr,
        other => panic!("{other:?}"),
    }
}

fn install(uffd: &Uffd, run: PageRun, value: u8) {
    let bytes = vec![value; usize::try_from(run.bytes()).unwrap()];
    let progress = uffd
        .copy(run.start.addr(), &bytes, Install::default())
        .unwrap();
    assert_eq!((progress.bytes, progress.obstacle), (bytes.len(), None));
}

#[test]
fn a_fault_waits_for_its_page_and_says_how_it_came_about() {
    let memory = Memory::new(8);
    let (mut child, uffd) = lazy(&memory, Features::THREAD_ID, |parent| {
        parent.send(look(&memory, 3));
        let at = memory.pointer().wrapping_add(5 * PAGE_BYTES);
        // SAFETY: mapped memory of this process.
        unsafe { at.write_volatile(1) };
        parent.send(look(&memory, 5));
    });
    assert!(uffd.try_clone().is_ok());
    match next_event(&uffd) {
        Event::PageFault {
            addr,
            flags,
            thread,
        } => {
            assert_eq!(addr, memory.part(3, 1).start.addr());
            assert_eq!(flags, FaultFlags::default());
            assert_eq!(thread, Some(u32::try_from(child.id()).unwrap()));
        }
        other => panic!("{other:?}"),
    }
    install(&uffd, memory.part(2, 3), 7);
    assert_eq!(child.receive(), 7);
    match next_event(&uffd) {
        Event::PageFault { flags, .. } => assert!(flags.write && !flags.write_protect),
        other => panic!("{other:?}"),
    }
    let progress = uffd.zero(memory.part(5, 3), Install::default()).unwrap();
    assert_eq!((progress.bytes, progress.obstacle), (3 * PAGE_BYTES, None));
    assert_eq!(child.receive(), 1);
    child.assert_success();
}

#[test]
fn no_event_is_no_error() {
    let memory = Memory::new(1);
    let (_child, uffd) = lazy(&memory, Features::NONE, |parent| {
        parent.receive();
    });
    assert_eq!(
        uffd.read_events(&mut EventBuffer::new()).unwrap().count(),
        0
    );
}

#[test]
fn a_page_can_be_installed_first_and_its_waiters_woken_later() {
    let memory = Memory::new(2);
    let (mut child, uffd) = lazy(&memory, Features::NONE, |parent| {
        parent.send(look(&memory, 0));
    });
    next_fault(&uffd);
    let quietly = Install {
        keep_waiting: true,
        ..Install::default()
    };
    let progress = uffd.copy(memory.addr(), &[9; PAGE_BYTES], quietly).unwrap();
    assert_eq!(progress.bytes, PAGE_BYTES);
    uffd.wake(memory.part(0, 1)).unwrap();
    assert_eq!(child.receive(), 9);
}

#[test]
fn pages_that_exist_stop_a_copy_where_they_are() {
    let memory = Memory::new(8);
    let (_child, uffd) = lazy(&memory, Features::NONE, |parent| {
        parent.receive();
    });
    install(&uffd, memory.part(5, 1), 1);
    let bytes = vec![2; 8 * PAGE_BYTES];
    let progress = uffd
        .copy(memory.addr(), &bytes, Install::default())
        .unwrap();
    assert_eq!(progress.bytes, 5 * PAGE_BYTES);
    assert_eq!(progress.obstacle, Some(Obstacle::Exists));
    let progress = uffd.zero(memory.part(4, 4), Install::default()).unwrap();
    assert_eq!(
        (progress.bytes, progress.obstacle),
        (0, Some(Obstacle::Exists))
    );
}

#[test]
fn places_that_are_not_registered_are_not_mapped() {
    let memory = Memory::new(8);
    let (mut child, uffd) = lazy(&memory, Features::NONE, |parent| {
        memory.unmap(4, 4);
        parent.send(0);
        parent.receive();
    });
    child.receive();
    let bytes = vec![1; 8 * PAGE_BYTES];
    let across = uffd
        .copy(memory.addr(), &bytes, Install::default())
        .unwrap();
    assert_eq!(
        (across.bytes, across.obstacle),
        (0, Some(Obstacle::NotMapped))
    );
    let outside = memory.part(6, 1).start.addr();
    let outside = uffd
        .copy(outside, &bytes[..PAGE_BYTES], Install::default())
        .unwrap();
    assert_eq!(outside.obstacle, Some(Obstacle::NotMapped));
    install(&uffd, memory.part(0, 4), 1);
}

#[test]
fn a_process_that_is_gone_is_said_to_be() {
    let memory = Memory::new(2);
    let (child, uffd) = lazy(&memory, Features::NONE, |parent| {
        parent.receive();
    });
    drop(child);
    let bytes = [1; PAGE_BYTES];
    let copy = uffd
        .copy(memory.addr(), &bytes, Install::default())
        .unwrap();
    assert_eq!(copy.obstacle, Some(Obstacle::ProcessGone));
    let zero = uffd.zero(memory.run(), Install::default()).unwrap();
    assert_eq!(zero.obstacle, Some(Obstacle::ProcessGone));
    assert!(uffd.unregister(memory.run()).unwrap_err().is_gone());
}

#[test]
fn what_cannot_be_is_an_error_and_not_an_obstacle() {
    let memory = Memory::new(2);
    let (_child, uffd) = lazy(&memory, Features::NONE, |parent| {
        parent.receive();
    });
    let odd = RemoteAddr(memory.addr().0 + 1);
    assert!(
        uffd.copy(odd, &[1; PAGE_BYTES], Install::default())
            .is_err()
    );
    assert!(
        uffd.copy(memory.addr(), &[1; 100], Install::default())
            .is_err()
    );
    assert!(
        uffd.handshake(Features::NONE).is_err(),
        "the child has done it"
    );
    assert!(
        uffd.register(PageRun::new(RemoteAddr(0).page(), 1), Modes::MISSING)
            .is_err()
    );
}

#[test]
fn a_fork_brings_the_userfaultfd_of_the_child_and_both_can_be_served() {
    let memory = Memory::new(4);
    let (mut child, uffd) = lazy(&memory, Features::LAZY_RESTORE, |parent| {
        let grandchild = support::fork_with(|grandparent| {
            grandparent.send(look(&memory, 1));
        });
        parent.send(look(&memory, 2));
        let mut grandchild = grandchild;
        parent.send(grandchild.receive());
        grandchild.assert_success();
    });
    let theirs = match next_event(&uffd) {
        Event::Fork { child } => child,
        other => panic!("{other:?}"),
    };
    let flags = rustix::io::fcntl_getfd(&theirs).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(next_fault(&theirs), memory.part(1, 1).start.addr());
    install(&theirs, memory.part(0, 4), 1);
    assert_eq!(next_fault(&uffd), memory.part(2, 1).start.addr());
    install(&uffd, memory.part(2, 1), 2);
    assert_eq!(child.receive(), 2);
    // Wait for what the grandchild saw; its end removes and unmaps nothing that is told.
    assert_eq!(child.receive(), 1);
}

#[test]
fn removal_is_told_before_it_happens_and_leaves_zeros() {
    let memory = Memory::new(4);
    let (mut child, uffd) = lazy(&memory, Features::LAZY_RESTORE, |parent| {
        parent.send(look(&memory, 1));
        memory.advise(0, 2, Advice::LinuxDontNeed);
        parent.send(look(&memory, 1));
    });
    next_fault(&uffd);
    install(&uffd, memory.part(1, 1), 5);
    assert_eq!(child.receive(), 5);
    assert!(wait::readable(&uffd, Instant::now() + PATIENCE).unwrap());
    // The event is queued, so nothing can be installed.
    let early = uffd.copy(
        memory.part(3, 1).start.addr(),
        &[6; PAGE_BYTES],
        Install::default(),
    );
    let early = early.unwrap();
    assert_eq!((early.bytes, early.obstacle), (0, Some(Obstacle::Again)));
    match next_event(&uffd) {
        Event::Remove { range } => assert_eq!(range, memory.part(0, 2)),
        other => panic!("{other:?}"),
    }
    assert_eq!(next_fault(&uffd), memory.part(1, 1).start.addr());
    let zeros = uffd.zero(memory.part(0, 2), Install::default()).unwrap();
    assert_eq!(zeros.obstacle, None);
    assert_eq!(child.receive(), 0);
}

#[test]
fn an_unmapped_range_is_told() {
    let memory = Memory::new(4);
    let (mut child, uffd) = lazy(&memory, Features::LAZY_RESTORE, |parent| {
        memory.unmap(1, 2);
        parent.send(0);
        parent.receive();
    });
    match next_event(&uffd) {
        Event::Unmap { range } => assert_eq!(range, memory.part(1, 2)),
        other => panic!("{other:?}"),
    }
    child.receive();
    install(&uffd, memory.part(3, 1), 1);
}

#[test]
fn a_moved_range_is_told_and_served_at_its_new_place() {
    let memory = Memory::new(4);
    let (mut child, uffd) = lazy(&memory, Features::LAZY_RESTORE, |parent| {
        let old = memory.pointer();
        let length = 4 * PAGE_BYTES;
        // SAFETY: the whole mapping, which nothing refers to.
        let new =
            unsafe { rustix::mm::mremap(old.cast(), length, 2 * length, MremapFlags::MAYMOVE) };
        let new: *mut u8 = new.unwrap().cast();
        parent.send(new.expose_provenance() as u64);
        let at = new.wrapping_add(2 * PAGE_BYTES);
        // SAFETY: in the moved mapping.
        parent.send(u64::from(unsafe { at.read_volatile() }));
    });
    // The kernel tells the move, then that the old place is unmapped.
    let moved = match next_event(&uffd) {
        Event::Remap { from, to, length } => {
            assert_eq!((from, length), (memory.addr(), 4 * PAGE_SIZE));
            to
        }
        other => panic!("{other:?}"),
    };
    match next_event(&uffd) {
        Event::Unmap { range } => assert_eq!(range, memory.run()),
        other => panic!("{other:?}"),
    }
    assert_eq!(RemoteAddr(child.receive()), moved);
    let fault = next_fault(&uffd);
    assert_eq!(fault, RemoteAddr(moved.0 + 2 * PAGE_SIZE));
    install(&uffd, PageRun::new(fault.page(), 1), 8);
    assert_eq!(child.receive(), 8);
}

#[test]
fn a_page_waits_while_one_descriptor_is_open_and_becomes_zeros_after_the_last() {
    let memory = Memory::new(2);
    let (mut child, uffd) = lazy(&memory, Features::NONE, |parent| {
        parent.send(look(&memory, 0));
        parent.send(look(&memory, 1));
    });
    let guardian: OwnedFd = uffd.try_clone().unwrap().into();
    drop(uffd);
    let uffd = Uffd::from(guardian);
    next_fault(&uffd);
    install(&uffd, memory.part(0, 1), 3);
    assert_eq!(child.receive(), 3);
    next_fault(&uffd);
    drop(uffd);
    assert_eq!(child.receive(), 0, "this is why somebody must keep it open");
}

#[test]
fn writes_to_protected_pages_are_told_and_let_through() {
    let memory = Memory::new(2);
    let (near, far) = UnixStream::pair().unwrap();
    let mut child = support::fork_with(|parent| {
        // SAFETY: the child handles this memory by raw pointers only.
        let uffd = unsafe { Uffd::for_this_process() }.unwrap();
        uffd.handshake(Features::PAGEFAULT_FLAG_WP).unwrap();
        uffd.register(memory.run(), Modes::MISSING | Modes::WRITE_PROTECT)
            .unwrap();
        fdpass::send_all(&far, b"u", &[uffd.as_fd()], Instant::now() + PATIENCE).unwrap();
        parent.receive();
        // SAFETY: mapped memory of this process.
        unsafe { memory.pointer().write_volatile(4) };
        parent.send(look(&memory, 0));
    });
    let deadline = Instant::now() + PATIENCE;
    let mut got = fdpass::receive_exact(&near, &mut [0], 1, deadline).unwrap();
    let uffd = Uffd::from(got.fds.remove(0));
    let protected = Install {
        write_protected: true,
        ..Install::default()
    };
    let progress = uffd
        .copy(memory.addr(), &[1; PAGE_BYTES], protected)
        .unwrap();
    assert_eq!(progress.obstacle, None);
    child.send(0);
    match next_event(&uffd) {
        Event::PageFault { flags, .. } => assert!(flags.write && flags.write_protect),
        other => panic!("{other:?}"),
    }
    uffd.write_protect(memory.part(0, 1), false).unwrap();
    assert_eq!(child.receive(), 4);
}
