//! What a process does to its mappings between two rounds, and what must be said about it.

use std::time::Instant;

use lifeboat_proto::units::PageRun;
use lifeboat_sys::maps::{self, VmFlags};
use lifeboat_track::{Last, Options, Round, Runs, Tracker};

use crate::{
    puppet::{Puppet, libc_flags as flags, part},
    target::PATIENCE,
};

pub(crate) const OPTIONS: Options = Options {
    attach_timeout: PATIENCE,
    hot_after: 3,
    round_runs_max: 1 << 20,
    hashed_pages_max: 1 << 16,
};

/// A puppet with 32 written pages, which the tracker has seen.
fn followed() -> (Puppet, Tracker, PageRun) {
    let mut puppet = Puppet::start();
    let memory = puppet.map(32);
    puppet.write(memory);
    let mut tracker = attach(&puppet);
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), [memory]);
    assert!(dirty_in(&tracker.round().unwrap(), memory).is_empty());
    (puppet, tracker, memory)
}

fn attach(puppet: &Puppet) -> Tracker {
    Tracker::attach(&puppet.process, OPTIONS).unwrap()
}

fn dirty_in(round: &Round, run: PageRun) -> Vec<PageRun> {
    round.dirty.within(run).collect()
}

fn last_in(last: &Last, run: PageRun) -> (Vec<PageRun>, Vec<PageRun>) {
    (
        last.present.within(run).collect(),
        last.dirty.within(run).collect(),
    )
}

fn runs(all: impl IntoIterator<Item = PageRun>) -> Vec<PageRun> {
    all.into_iter().collect::<Runs>().as_slice().to_vec()
}

#[test]
fn the_first_round_reports_what_is_there_and_later_ones_what_is_written() {
    let (mut puppet, mut tracker, memory) = followed();
    puppet.write_each(memory, 4);
    let written = runs((0..32).step_by(4).map(|page| part(memory, page, 1)));
    let last = tracker.last().unwrap();
    assert_eq!(last_in(&last, memory), (vec![memory], written.clone()));
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), written);
    assert_eq!(
        last_in(&tracker.last().unwrap(), memory),
        (vec![memory], vec![])
    );
}

#[test]
fn new_memory_at_an_old_place_is_dirty() {
    let (mut puppet, mut tracker, memory) = followed();
    puppet.map_at(memory);
    puppet.write_each(memory, 32);
    let first = part(memory, 0, 1);
    assert_eq!(
        last_in(&tracker.last().unwrap(), memory),
        (vec![first], vec![first])
    );
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), [first]);
}

#[test]
fn memory_that_is_moved_is_dirty_at_its_new_place_and_gone_at_the_old_one() {
    let (mut puppet, mut tracker, memory) = followed();
    let to = puppet.map(32);
    puppet.move_to(memory, to.start);
    assert_eq!(last_in(&tracker.last().unwrap(), to).1, [to]);
    let round = tracker.round().unwrap();
    assert_eq!(dirty_in(&round, to), [to]);
    assert_eq!(round.gone.within(memory).collect::<Vec<_>>(), [memory]);
    // And is followed there.
    puppet.write_each(to, 32);
    assert_eq!(dirty_in(&tracker.round().unwrap(), to), [part(to, 0, 1)]);
}

#[test]
fn memory_that_is_moved_there_and_back_is_dirty() {
    let (mut puppet, mut tracker, memory) = followed();
    let there = puppet.map(32);
    puppet.move_to(memory, there.start);
    puppet.write_each(there, 8);
    puppet.move_to(there, memory.start);
    assert_eq!(last_in(&tracker.last().unwrap(), memory).1, [memory]);
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), [memory]);
}

#[test]
fn memory_beside_which_other_memory_was_moved_is_still_followed() {
    let mut puppet = Puppet::start();
    let (room, elsewhere) = (puppet.map(64), puppet.map(32));
    let (near, far) = (part(room, 0, 32), part(room, 32, 32));
    puppet.write(room);
    let mut tracker = attach(&puppet);
    puppet.move_to(far, elsewhere.start);
    tracker.round().unwrap();
    // The kernel joins the two, and registers neither; it leaves the protection in place.
    puppet.move_to(elsewhere, far.start);
    puppet.write_each(near, 4);
    let last = tracker.last().unwrap();
    assert_eq!(last_in(&last, room), (vec![room], vec![room]));
    assert_eq!(dirty_in(&tracker.round().unwrap(), room), [room]);
    puppet.write_each(room, 4);
    let written = runs((0..64).step_by(4).map(|page| part(room, page, 1)));
    assert_eq!(last_in(&tracker.last().unwrap(), room).1, written);
    assert_eq!(dirty_in(&tracker.round().unwrap(), room), written);
}

#[test]
fn memory_that_grew_is_followed_in_its_new_part() {
    let mut puppet = Puppet::start();
    let room = puppet.map(64);
    puppet.unmap(part(room, 32, 32));
    let memory = part(room, 0, 32);
    puppet.write(memory);
    let mut tracker = attach(&puppet);
    tracker.round().unwrap();
    puppet.grow(memory, 64);
    puppet.write_each(room, 16);
    let written = runs((0..64).step_by(16).map(|page| part(room, page, 1)));
    assert_eq!(last_in(&tracker.last().unwrap(), room).1, written);
    assert_eq!(dirty_in(&tracker.round().unwrap(), room), written);
}

#[test]
fn dropped_pages_are_not_present_and_dirty_when_they_come_back() {
    let (mut puppet, mut tracker, memory) = followed();
    let dropped = part(memory, 8, 8);
    puppet.advise(dropped, flags::MADV_DONTNEED);
    let rest = vec![part(memory, 0, 8), part(memory, 16, 16)];
    assert_eq!(
        last_in(&tracker.last().unwrap(), memory),
        (rest.clone(), vec![])
    );
    assert!(dirty_in(&tracker.round().unwrap(), memory).is_empty());
    // The page of zeros is no content.
    puppet.read(dropped);
    assert_eq!(last_in(&tracker.last().unwrap(), memory), (rest, vec![]));
    assert!(dirty_in(&tracker.round().unwrap(), memory).is_empty());
    puppet.write(part(dropped, 0, 2));
    assert_eq!(
        dirty_in(&tracker.round().unwrap(), memory),
        [part(dropped, 0, 2)]
    );
}

#[test]
fn memory_that_was_executable_meanwhile_is_dirty_when_it_comes_back() {
    let (mut puppet, mut tracker, memory) = followed();
    puppet.protect(memory, flags::PROT_READ | flags::PROT_EXEC);
    let round = tracker.round().unwrap();
    assert_eq!(round.gone.within(memory).collect::<Vec<_>>(), [memory]);
    puppet.protect(memory, flags::PROT_READ | flags::PROT_WRITE);
    assert_eq!(last_in(&tracker.last().unwrap(), memory).1, [memory]);
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), [memory]);
    assert!(dirty_in(&tracker.round().unwrap(), memory).is_empty());
}

#[test]
fn memory_is_followed_through_other_protection() {
    let (mut puppet, mut tracker, memory) = followed();
    puppet.write_each(memory, 16);
    puppet.protect(part(memory, 8, 8), 0);
    puppet.protect(part(memory, 0, 4), flags::PROT_READ);
    let written = runs([part(memory, 0, 1), part(memory, 16, 1)]);
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), written);
    puppet.protect(memory, flags::PROT_READ | flags::PROT_WRITE);
    assert!(dirty_in(&tracker.round().unwrap(), memory).is_empty());
    puppet.write_each(memory, 16);
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), written);
}

#[test]
fn an_executed_program_is_another_address_space() {
    let (mut puppet, mut tracker, _) = followed();
    assert_eq!(puppet.order("x"), 0);
    assert!(tracker.round().unwrap_err().is_gone());
    assert!(tracker.last().unwrap_err().is_gone());
    let memory = puppet.map(4);
    puppet.write(memory);
    let mut tracker = attach(&puppet);
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), [memory]);
}

#[test]
fn a_process_that_ended_is_gone() {
    let (mut puppet, mut tracker, _) = followed();
    puppet.tell("q");
    assert!(puppet.process.wait_exit(Instant::now() + PATIENCE).unwrap());
    assert!(tracker.round().unwrap_err().is_gone());
    assert!(tracker.last().unwrap_err().is_gone());
}

#[test]
fn huge_pages_are_followed_page_by_page() {
    let mut puppet = Puppet::start();
    let room = puppet.map(1536);
    let first = 512 - room.start.0 % 512;
    let memory = part(room, first, 512);
    puppet.advise(memory, flags::MADV_HUGEPAGE);
    puppet.write_each(memory, 512);
    let mut tracker = attach(&puppet);
    assert_eq!(
        dirty_in(&tracker.round().unwrap(), memory),
        [memory],
        "no huge page"
    );
    assert!(dirty_in(&tracker.round().unwrap(), memory).is_empty());
    puppet.write_each(memory, 128);
    let written = runs((0..512).step_by(128).map(|page| part(memory, page, 1)));
    assert_eq!(dirty_in(&tracker.round().unwrap(), memory), written);
}

#[test]
fn a_round_that_finds_too_much_is_continued_in_the_next_one() {
    let mut puppet = Puppet::start();
    let spaces: Vec<PageRun> = (0..4).map(|_| puppet.map(32)).collect();
    // Apart from each other, as far as the kernel is concerned.
    for space in &spaces[1..3] {
        puppet.protect(part(*space, 0, 1), flags::PROT_READ);
    }
    let all = runs(spaces.iter().map(|space| part(*space, 1, 31)));
    spaces
        .iter()
        .for_each(|space| puppet.write_each(part(*space, 1, 31), 2));
    let options = Options {
        round_runs_max: 20,
        ..OPTIONS
    };
    let mut tracker = Tracker::attach(&puppet.process, options).unwrap();
    let (mut seen, mut rounds) = (Runs::new(), 0);
    loop {
        let round = tracker.round().unwrap();
        rounds += 1;
        let new: Runs = all.iter().flat_map(|run| dirty_in(&round, *run)).collect();
        assert!(seen.and(&new).is_empty(), "reported twice");
        // What no round has looked at is dirty.
        seen = seen.or(&new);
        let dirty = tracker.last().unwrap().dirty;
        let expected = all.iter().map(|run| run.pages.div_ceil(2)).sum::<u64>() - seen.pages();
        let left: u64 = all
            .iter()
            .flat_map(|run| dirty.within(*run))
            .map(|run| run.pages)
            .sum();
        assert_eq!(left, expected);
        if !round.is_partial {
            break;
        }
    }
    assert!(rounds > 1);
    assert_eq!(seen.pages(), 64);
}

#[test]
fn nothing_is_left_behind() {
    let mut puppet = Puppet::start();
    // It has begun when it answers.
    puppet.map(1);
    let registered = || {
        let mappings = maps::read_with_flags(puppet.process.pid()).unwrap();
        let flags = mappings.iter().filter_map(|mapping| mapping.flags);
        flags
            .filter(|flags| flags.contains(VmFlags::UFFD_WRITE_PROTECT))
            .count()
    };
    let descriptors = || {
        let pid = puppet.process.pid().as_raw_nonzero();
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    let before = descriptors();
    let mut tracker = attach(&puppet);
    tracker.round().unwrap();
    assert!(registered() > 0);
    assert_eq!(descriptors(), before);
    drop(tracker);
    assert_eq!(registered(), 0);
    // And it can be followed anew.
    let mut tracker = attach(&puppet);
    assert!(!tracker.round().unwrap().dirty.is_empty());
}
