//! Trees of processes: those that come, go, execute, and cannot be tracked.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Instant,
};

use lifeboat_proto::units::PageRun;
use lifeboat_sys::{namespace, pidfd::Pidfd, tracer::Tracer, vm::RemoteMemory};
use lifeboat_track::{Mode, Options, Runs, SpaceRound, TreeRound, TreeTracker};
use rustix::process::Pid;

use crate::{
    events::OPTIONS,
    puppet::{Puppet, part},
    shadow::Shadow,
    target::PATIENCE,
};

fn follow(puppet: &Puppet, options: Options) -> TreeTracker {
    TreeTracker::new(puppet.process.try_clone().unwrap(), options)
}

fn only(mut round: TreeRound) -> SpaceRound {
    assert_eq!(round.spaces.len(), 1, "{round:?}");
    round.spaces.remove(0)
}

fn dirty_in(space: &SpaceRound, run: PageRun) -> Vec<PageRun> {
    space.round.dirty.within(run).collect()
}

#[test]
fn two_hundred_children_are_followed_from_the_round_after_their_birth_on() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    let mut shadow = Shadow::default();
    shadow.follow(&tracker.round().unwrap());
    assert_eq!(puppet.order("f 200"), 200);
    let round = tracker.round().unwrap();
    assert_eq!(round.spaces.len(), 201);
    for child in &round.spaces[1..] {
        assert_eq!(child.mode, Mode::WriteProtect, "{:?}", child.why);
        assert_eq!(dirty_in(child, memory), [memory]);
    }
    shadow.follow(&round);
    puppet.write(part(memory, 0, 4));
    let round = tracker.round().unwrap();
    assert_eq!(dirty_in(&round.spaces[0], memory), [part(memory, 0, 4)]);
    for child in &round.spaces[1..] {
        assert!(dirty_in(child, memory).is_empty());
    }
    shadow.follow(&round);
    // None of them writes now.
    shadow.finish(&tracker.last().unwrap());
    assert_eq!(puppet.order("k"), 200);
    let round = tracker.round().unwrap();
    assert_eq!((round.spaces.len(), round.ended.len()), (1, 200));
}

#[test]
fn children_that_no_round_has_seen_are_dirty_at_the_end() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    tracker.round().unwrap();
    puppet.order("f 3");
    let lasts = tracker.last().unwrap();
    assert_eq!(lasts.len(), 4);
    assert!(lasts[0].last.dirty.within(memory).next().is_none());
    for child in &lasts[1..] {
        assert_eq!(child.last.dirty, child.last.present);
        assert_eq!(
            child.last.dirty.within(memory).collect::<Vec<_>>(),
            [memory]
        );
    }
}

#[test]
fn an_executed_program_is_a_new_space_and_the_old_one_has_ended() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    let before = only(tracker.round().unwrap()).space;
    puppet.order("x");
    let lasts = tracker.last().unwrap();
    assert_eq!(lasts.len(), 1);
    assert_ne!(lasts[0].space, before);
    assert_eq!(lasts[0].last.dirty, lasts[0].last.present);

    let after = only(tracker.round().unwrap());
    assert_ne!(after.space, before);
    assert_eq!(after.mode, Mode::WriteProtect);
    assert!(!after.round.dirty.is_empty());
    puppet.order("x");
    // Found out in the middle of a round.
    let round = tracker.round().unwrap();
    assert!(round.spaces.is_empty(), "{round:?}");
    assert_eq!(round.ended, [after.space]);
    assert_eq!(only(tracker.round().unwrap()).mode, Mode::WriteProtect);
}

#[test]
fn a_child_that_uses_its_parents_memory_is_left_alone() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    tracker.round().unwrap();
    // vfork: the child answers, and sleeps in its parent's memory.
    assert_eq!(puppet.order("b"), 0);
    let tree = namespace::process_tree(&puppet.process).unwrap();
    assert_eq!(tree.len(), 2);
    let one = only(tracker.round().unwrap());
    assert_eq!(one.pid, puppet.process.pid());
    assert_eq!(tracker.last().unwrap().len(), 1);
    rustix::process::kill_process(tree[1].pid, rustix::process::Signal::KILL).unwrap();
    assert!(puppet.answer() > 0);
}

#[test]
fn a_process_of_32_busy_threads_is_followed() {
    let mut puppet = Puppet::start();
    let at = puppet.order("t 32");
    let busy = PageRun::covering(address(at), address(at + 32 * 4096));
    let mut tracker = follow(&puppet, OPTIONS);
    assert_eq!(dirty_in(&only(tracker.round().unwrap()), busy), [busy]);
    // In the end each of them has written again.
    let mut seen = Runs::new();
    let deadline = Instant::now() + PATIENCE;
    while seen.pages() < 32 {
        assert!(Instant::now() < deadline, "only {seen:?}");
        seen.extend(only(tracker.round().unwrap()).round.dirty.within(busy));
    }
}

#[test]
fn pages_that_are_written_all_the_time_become_hot_and_stay_dirty() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(64);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    let hot = part(memory, 10, 5);
    for _ in 0..OPTIONS.hot_after {
        puppet.write(hot);
        assert!(
            only(tracker.round().unwrap())
                .round
                .dirty
                .within(hot)
                .eq([hot])
        );
    }
    puppet.write(hot);
    let one = only(tracker.round().unwrap());
    assert!(dirty_in(&one, hot).is_empty());
    assert!(one.round.hot_pages >= hot.pages);
    let last = tracker.last().unwrap().remove(0).last;
    assert_eq!(last.dirty.within(memory).collect::<Vec<_>>(), [hot]);
    // Once they are no longer written, they come back.
    let mut back = Runs::new();
    for _ in 0..2 * lifeboat_track::RETRY_ROUNDS {
        back.extend(only(tracker.round().unwrap()).round.dirty.within(memory));
    }
    assert_eq!(back.as_slice(), [hot]);
    let last = tracker.last().unwrap().remove(0).last;
    assert!(last.dirty.within(memory).next().is_none());
}

#[test]
fn pages_that_are_given_back_are_dirty_again() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(part(memory, 0, 8));
    let mut tracker = follow(&puppet, OPTIONS);
    let space = only(tracker.round().unwrap()).space;
    tracker.round().unwrap();
    let lost = Runs::from_iter([part(memory, 4, 8)]);
    tracker.again(space, &lost);
    // Holes are not content.
    let present = part(memory, 4, 4);
    let last = tracker.last().unwrap().remove(0).last;
    assert!(last.dirty.within(memory).eq([present]));
    assert_eq!(dirty_in(&only(tracker.round().unwrap()), memory), [present]);
    assert!(dirty_in(&only(tracker.round().unwrap()), memory).is_empty());
}

#[test]
fn a_process_that_uses_userfaultfd_is_compared_by_content() {
    let mut puppet = Puppet::start();
    let uffd = puppet.order("h");
    assert!(uffd >= 0);
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    let one = only(tracker.round().unwrap());
    assert_eq!(one.mode, Mode::Hash);
    assert!(one.why.unwrap().contains("userfaultfd"));
    assert!(one.round.dirty.within(memory).eq([memory]));
    capture(&puppet, &mut tracker, &one.round.dirty, one.space);

    puppet.write(part(memory, 3, 2));
    let last = tracker.last().unwrap().remove(0).last;
    assert!(last.present.within(memory).eq([memory]));
    assert!(last.dirty.within(memory).eq([part(memory, 3, 2)]));
    let one = only(tracker.round().unwrap());
    assert!(one.round.dirty.within(memory).eq([part(memory, 3, 2)]));
    // Not captured: still dirty.
    let one = only(tracker.round().unwrap());
    assert!(one.round.dirty.within(memory).eq([part(memory, 3, 2)]));
    capture(&puppet, &mut tracker, &one.round.dirty, one.space);
    assert!(dirty_in(&only(tracker.round().unwrap()), memory).is_empty());
    tracker.again(one.space, &Runs::from_iter([part(memory, 0, 1)]));
    assert!(
        only(tracker.round().unwrap())
            .round
            .dirty
            .within(memory)
            .eq([part(memory, 0, 1)])
    );
}

#[test]
fn what_is_too_large_to_compare_is_dirty() {
    let mut puppet = Puppet::start();
    puppet.order("h");
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(
        &puppet,
        Options {
            hashed_pages_max: 8,
            ..OPTIONS
        },
    );
    let one = only(tracker.round().unwrap());
    assert_eq!(one.mode, Mode::Everything);
    assert!(one.round.untracked.within(memory).eq([memory]));
    let last = tracker.last().unwrap().remove(0).last;
    assert!(last.dirty.within(memory).eq([memory]));
}

#[test]
fn a_program_that_begins_to_use_userfaultfd_gets_its_memory_back() {
    let mut puppet = Puppet::start();
    let mut tracker = follow(&puppet, OPTIONS);
    assert_eq!(only(tracker.round().unwrap()).mode, Mode::WriteProtect);
    puppet.order("h");
    tracker.round().unwrap();
    assert_eq!(only(tracker.round().unwrap()).mode, Mode::Hash);
}

#[test]
fn a_process_that_is_traced_is_dirty_and_tried_again() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(memory);
    let mut tracker = follow(&puppet, OPTIONS);
    let process = puppet.process.try_clone().unwrap();
    let traced = std::thread::scope(|scope| {
        let (seized, is_seized) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let tracer = Tracer::seize(&process, process.pid()).unwrap();
            seized.send(()).unwrap();
            released.recv().ok();
            drop(tracer);
        });
        is_seized.recv().unwrap();
        let one = only(tracker.round().unwrap());
        drop(release);
        one
    });
    assert_eq!(traced.mode, Mode::Everything);
    assert!(traced.round.untracked.within(memory).eq([memory]));
    let deadline = Instant::now() + PATIENCE;
    while only(tracker.round().unwrap()).mode != Mode::WriteProtect {
        assert!(Instant::now() < deadline, "never tried again");
    }
}

#[test]
fn what_was_read_past_the_page_cache_is_reported_once_more() {
    let mut puppet = Puppet::start();
    let memory = puppet.map(16);
    puppet.write(memory);
    let direct = puppet.order("o");
    assert!(direct >= 0, "no direct reads here");
    let mut tracker = follow(&puppet, OPTIONS);
    assert_eq!(dirty_in(&only(tracker.round().unwrap()), memory), [memory]);
    let last = tracker.last().unwrap().remove(0).last;
    assert!(last.dirty.within(memory).eq([memory]), "not settled");
    let began = Instant::now();
    loop {
        let again = dirty_in(&only(tracker.round().unwrap()), memory);
        if !again.is_empty() {
            assert_eq!(again, [memory]);
            break;
        }
        assert!(began.elapsed() < PATIENCE, "never reported again");
    }
    assert!(began.elapsed() >= lifeboat_track::DIRECT_SETTLES / 2);
    assert_eq!(puppet.order(&format!("l {direct}")), 0);
    puppet.write(memory);
    assert_eq!(dirty_in(&only(tracker.round().unwrap()), memory), [memory]);
    let last = tracker.last().unwrap().remove(0).last;
    assert!(
        last.dirty.within(memory).next().is_none(),
        "settled at once"
    );
}

#[test]
fn the_end_of_a_process_in_the_middle_of_a_round_is_no_error() {
    for _ in 0..30 {
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "echo; for i in 1 2 3 4 5 6; do true & (true; true) & done; wait; sleep 60",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let root = Pidfd::open(Pid::from_child(&shell)).unwrap();
        let mut tracker = TreeTracker::new(root, OPTIONS);
        for _ in 0..20 {
            tracker.round().unwrap();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(tracker.round().unwrap_err().is_gone());
    }
}

#[test]
fn the_cost_of_looking_is_told() {
    let mut puppet = Puppet::start();
    puppet.order("t 1");
    let mut tracker = follow(&puppet, OPTIONS);
    assert_eq!(
        tracker.round().unwrap().cost,
        lifeboat_track::Cost::default()
    );
    // The kernel counts ticks of 10 ms.
    let deadline = Instant::now() + PATIENCE;
    let mut used = std::time::Duration::ZERO;
    while used.is_zero() {
        assert!(Instant::now() < deadline, "it never worked");
        let cost = tracker.round().unwrap().cost;
        assert!(!cost.interval.is_zero());
        used += cost.used;
    }
}

fn capture(
    puppet: &Puppet,
    tracker: &mut TreeTracker,
    runs: &Runs,
    space: lifeboat_track::SpaceId,
) {
    let memory = RemoteMemory::open(puppet.process.pid()).unwrap();
    for run in runs.as_slice() {
        let mut bytes = vec![0; usize::try_from(run.bytes()).unwrap()];
        memory.read_runs(&[*run], &mut bytes).unwrap();
        tracker.captured(space, *run, &bytes);
    }
}

fn address(at: i64) -> lifeboat_proto::units::RemoteAddr {
    lifeboat_proto::units::RemoteAddr(at.cast_unsigned())
}
