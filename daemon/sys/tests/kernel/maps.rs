//! Mappings, as the kernel tells them.

use lifeboat_proto::units::PAGE_BYTES;
use lifeboat_sys::maps::{self, Mapping, VmFlags};
use rustix::{
    mm::{Advice, MapFlags, MprotectFlags},
    process::getpid,
};

use crate::support::{self, Memory};

fn of<'a>(mappings: &'a [Mapping], memory: &Memory, page: usize) -> &'a Mapping {
    let page = memory.part(page, 1).start;
    mappings
        .iter()
        .find(|mapping| mapping.run.contains(page))
        .unwrap()
}

#[test]
fn mappings_and_their_flags_are_what_was_made() {
    let private = Memory::new(12);
    private.protect(4, 4, MprotectFlags::READ);
    private.advise(8, 4, Advice::LinuxWipeOnFork);
    let shared = Memory::with_flags(4, MapFlags::SHARED);
    let locked = Memory::new(2);
    // SAFETY: mapped memory of this process.
    unsafe { rustix::mm::mlock(locked.pointer().cast(), 2 * PAGE_BYTES) }.unwrap();

    let fast = maps::read(getpid()).unwrap();
    assert!(fast.is_sorted_by(|a, b| a.run.end() <= b.run.start));
    let found = of(&fast, &private, 0);
    assert!(found.is_private_anonymous() && found.permissions.write);
    assert_eq!(found.can_be_lazy(), None);
    assert_eq!(of(&fast, &private, 4).run, private.part(4, 4));
    assert!(!of(&fast, &private, 4).permissions.write);
    let found = of(&fast, &shared, 0);
    assert!(
        found.shared && !found.is_anonymous(),
        "shared memory has a hidden file"
    );
    assert_eq!(found.name, b"/dev/zero (deleted)");

    let full = maps::read_with_flags(getpid()).unwrap();
    let flags = |memory, page| of(&full, memory, page).flags.unwrap();
    assert!(flags(&private, 0).contains(VmFlags::READ | VmFlags::WRITE | VmFlags::NO_HUGE_PAGE));
    assert!(flags(&private, 8).contains(VmFlags::WIPE_ON_FORK));
    assert!(flags(&shared, 0).contains(VmFlags::SHARED));
    assert!(flags(&locked, 0).contains(VmFlags::LOCKED));
    assert_eq!(of(&full, &private, 0).can_be_lazy(), Some(true));
    assert_eq!(of(&full, &locked, 0).can_be_lazy(), Some(false));
    assert_eq!(of(&full, &shared, 0).can_be_lazy(), Some(false));
    let unknown: Vec<&Mapping> = full
        .iter()
        .filter(|mapping| mapping.flags.unwrap().contains(VmFlags::UNKNOWN))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let vdso = full
        .iter()
        .find(|mapping| mapping.name == b"[vdso]")
        .unwrap();
    assert!(vdso.is_provided_by_kernel() && vdso.can_be_lazy() == Some(false));
}

#[test]
fn mappings_of_a_process_that_changes_them_are_ascending() {
    let child = support::fork_with(|parent| {
        parent.send(0);
        loop {
            let memory = Memory::new(64);
            for page in (0..64).step_by(2) {
                memory.protect(page, 1, MprotectFlags::READ);
            }
        }
    });
    let mut child = child;
    child.receive();
    for _ in 0..200 {
        let mappings = maps::read(child.pid).unwrap();
        assert!(mappings.is_sorted_by(|a, b| a.run.end() <= b.run.start));
        assert!(mappings.len() > 10);
    }
}

#[test]
fn a_process_that_is_gone_is_gone() {
    let child = support::fork(|| {});
    let pid = child.pid;
    child.assert_success();
    assert!(maps::read(pid).unwrap_err().is_gone());
    assert!(maps::read_with_flags(pid).unwrap_err().is_gone());
}
